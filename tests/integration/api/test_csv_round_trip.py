"""Round trips of tasks and cells through CSV, as properties."""

from collections.abc import Iterable
from typing import Any

import asyncpg
import httpx
from hypothesis import HealthCheck, given
from hypothesis import settings as profile
from hypothesis import strategies as st

from task_service.domain.fields import clean_tags
from task_service.services.csv.format import (
    guard,
    join_tags,
    split_tags,
    unguard,
)
from tests.support.csv_files import export_csv
from tests.support.task_api import TASKS, import_csv

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=30)


CSV_TEXT = st.one_of(TEXT, st.text("=+-@\"',;|[]\r\n\t a", max_size=12))


TITLES = CSV_TEXT.filter(str.strip)


TASK = st.fixed_dictionaries(
    {
        "title": TITLES,
        "description": CSV_TEXT,
        "assigned_to": st.none() | TITLES,
        "tags": st.lists(CSV_TEXT, max_size=4),
        "payload": st.none()
        | CSV_TEXT
        | st.recursive(st.integers() | st.booleans() | CSV_TEXT, st.lists, max_leaves=4),
        "priority": st.sampled_from(["low", "medium", "high", "urgent"]),
    }
)


FIELDS = (
    "title",
    "description",
    "assigned_to",
    "tags",
    "payload",
    "priority",
    "status",
    "created_by",
)


def comparable_fields(tasks: Iterable[dict[str, Any]]) -> list[list[Any]]:
    """Return the fields that survive an export and import; an empty description becomes null."""
    return [[task[field] or None for field in FIELDS] for task in tasks]


@profile(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(TASK, min_size=1, max_size=6))
async def test_any_exported_task_is_imported_unchanged(
    client: httpx.AsyncClient, connection: asyncpg.Connection, tasks: list[dict[str, Any]]
) -> None:
    await connection.execute(
        "TRUNCATE tasks, queue, conversations, imports, task_deltas, task_counts CASCADE"
    )
    made = await client.post(f"{TASKS}:batch", json={"tasks": tasks})
    assert made.status_code == 201, made.text
    before = [(await client.get(f"{TASKS}/{t['id']}")).json() for t in made.json()["items"]]
    content, _ = await export_csv(client)
    await connection.execute("TRUNCATE tasks, queue, task_deltas, task_counts CASCADE")
    await import_csv(client, content, "all-or-nothing")
    listed = (await client.get(TASKS, params={"sort": "created_at", "limit": 200})).json()["items"]
    after = [(await client.get(f"{TASKS}/{t['id']}")).json() for t in listed]
    assert sorted(map(repr, comparable_fields(after))) == sorted(
        map(repr, comparable_fields(before))
    )


@given(CSV_TEXT)
def test_escaped_cell_is_not_a_formula_and_can_be_unescaped(cell: str) -> None:
    assert unguard(guard(cell)) == cell
    assert not guard(cell).startswith(("=", "+", "-", "@", "\t", "\r"))


@given(st.lists(CSV_TEXT, max_size=4).map(clean_tags))
def test_tags_in_a_cell_can_be_parsed_back(tags: list[str]) -> None:
    assert clean_tags(split_tags(join_tags(tags))) == tags
