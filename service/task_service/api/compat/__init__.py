"""The paths and words of the services whose users this one took over."""

from typing import Literal

from fastapi import APIRouter

from task_service.api.compat import a, b, c, d, e

TAGS = [
    {
        "name": "service A",
        "description": "`/api/python/v1/tasks`: four fields, statuses in upper case.",
    },
    {"name": "service B", "description": "`/api/tasks` without pages, and `/api/settings`."},
    {
        "name": "service C",
        "description": "Integer ids, lists without pages, tasks that the default handler runs.",
    },
    {
        "name": "service D",
        "description": "Tokens always, integer ids, the daily log by date, errors in its own words.",
    },
    {"name": "service E", "description": "`/tasks` by pages or cursors, with statistics."},
]


Root = Literal["c", "d", "e"]


def routers(root: Root) -> list[APIRouter]:
    """All of them under `/compat/…`, and at the root where they do not collide: `/tasks` there means one service's."""
    return [
        *a.routers(),
        *b.routers(),
        *c.routers(root=root == "c"),
        *d.routers(root=root == "d"),
        *e.routers(root=root == "e"),
    ]


def paths_in_words_of_d(root: Root) -> set[str]:
    """Beginnings of the paths on which errors are in service D's words."""
    return d.paths(root=root == "d")
