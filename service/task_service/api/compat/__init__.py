"""Compatibility routes: the paths and formats of the five services that this one replaces."""

from typing import Literal

from fastapi import APIRouter

from task_service.api.compat import a, b, c, d, e

TAGS = [
    {
        "name": "service A",
        "description": "`/api/python/v1/tasks`: four fields, statuses in upper case.",
    },
    {"name": "service B", "description": "`/api/tasks` without paging, and `/api/settings`."},
    {
        "name": "service C",
        "description": "Integer ids, lists without paging, and tasks for the default handler.",
    },
    {
        "name": "service D",
        "description": "Integer ids, the daily log by date, its own error format. "
        "Writing always requires a token.",
    },
    {"name": "service E", "description": "`/tasks` by page number or cursor, and statistics."},
]


Root = Literal["c", "d", "e"]


def routers(root: Root) -> list[APIRouter]:
    """Return the routers of all services, under `/compat/…` and at the root.

    At the root, `/tasks` belongs to one service (`root`); paths that collide with it are left out.
    """
    return [
        *a.routers(),
        *b.routers(),
        *c.routers(root=root == "c"),
        *d.routers(root=root == "d"),
        *e.routers(root=root == "e"),
    ]


def path_prefixes_of_d(root: Root) -> set[str]:
    """Return the prefixes of the paths on which errors have service D's format."""
    return d.path_prefixes(root=root == "d")
