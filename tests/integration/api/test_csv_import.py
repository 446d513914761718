"""Imports of valid CSV files."""

import asyncio
import json

import asyncpg
import httpx

from tests.support.csv_files import FUTURE, import_errors
from tests.support.database_rows import count_rows
from tests.support.problems import check_problem
from tests.support.task_api import import_csv, upload_csv


async def test_every_column_becomes_a_field_of_the_task(
    client: httpx.AsyncClient, connection: asyncpg.Connection
) -> None:
    content = (
        "\ufeffTitle,description,Status,priority,Assigned To,due-date,tags,handler,payload,queue,run_at,"
        "max_attempts,timeout_seconds\r\n"
        f'"Ring ""Ada""","two\r\nlines, one cell",,HIGH,ada,{FUTURE.isoformat()},home; garden|Home,noop,'
        '"{""a"": [1]}",mail,,3,60\r\n'
        "plain,,completed,,,,,,,,,,\r\n"
    )
    report = await import_csv(client, content, "all-or-nothing")
    assert (report.rows, report.created, report.skipped, report.errors) == (2, 2, 0, [])
    one, two = [dict(r) for r in await connection.fetch("SELECT * FROM task_view ORDER BY number")]
    expected = {
        "title": 'Ring "Ada"', "description": "two\r\nlines, one cell", "status": "pending", "priority": 1,
        "assigned_to": "ada", "due_date": FUTURE, "tags": ["home", "garden"], "handler": "noop", "queue": "mail",
        "max_attempts": 3, "timeout_seconds": 60, "created_by": "anonymous",
    }  # fmt: skip
    assert {name: one[name] for name in expected} == expected
    assert json.loads(one["payload"]) == {"a": [1]}
    assert (two["title"], two["status"], two["handler"], two["max_attempts"]) == (
        "plain",
        "completed",
        None,
        5,
    )
    assert (
        await count_rows(connection, "queue"),
        await count_rows(connection, "task_history"),
    ) == (1, 2)


async def test_semicolons_empty_lines_and_a_missing_last_newline_are_accepted(
    client: httpx.AsyncClient, connection: asyncpg.Connection
) -> None:
    report = await import_csv(client, 'title;tags\n\n"a";"x;y"\nb;z\n\nc;')
    assert (report.rows, report.created) == (3, 3)
    rows = await connection.fetch("SELECT title, tags FROM tasks ORDER BY number")
    assert [tuple(r) for r in rows] == [("a", ["x", "y"]), ("b", ["z"]), ("c", [])]


async def test_header_without_rows_imports_nothing(client: httpx.AsyncClient) -> None:
    assert (await import_csv(client, "title\n", "all-or-nothing")).rows == 0


async def test_same_file_is_imported_once_per_mode(
    client: httpx.AsyncClient, connection: asyncpg.Connection
) -> None:
    content = "title,max_attempts\ngood,1\nbad,0\n"
    first = await upload_csv(client, content, params={"mode": "skip-invalid"})
    again = await upload_csv(client, content, params={"mode": "skip-invalid"})
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json() == first.json() | {"repeated": True}
    assert await count_rows(connection) == 1
    assert [e[:2] for e in await import_errors(client, content)] == [(3, "max_attempts")]
    assert await count_rows(connection, "imports") == 1


async def test_one_of_many_concurrent_uploads_imports_the_file(
    client: httpx.AsyncClient, connection: asyncpg.Connection
) -> None:
    content = "title\n" + "x\n" * 2000
    responses = await asyncio.gather(*(upload_csv(client, content) for _ in range(8)))
    assert sorted(a.status_code for a in responses) == [200] * 7 + [201]
    assert await count_rows(connection) == 2000


async def test_idempotency_key_applies_to_uploads(
    client: httpx.AsyncClient, connection: asyncpg.Connection
) -> None:
    key = {"Idempotency-Key": "one"}
    first, again = [await upload_csv(client, "title\nx\n", headers=key) for _ in range(2)]
    assert (first.status_code, again.status_code, again.json()) == (201, 201, first.json())
    check_problem(await upload_csv(client, "title\ny\n", headers=key), 422, "idempotency_conflict")
    assert await count_rows(connection) == 1
