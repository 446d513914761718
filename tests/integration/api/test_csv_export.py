"""Exports of tasks as CSV."""

import asyncio
import csv
import io
import json
from typing import Any

import asyncpg
import httpx
import pytest
from fastapi import FastAPI

from task_service.services.csv.format import (
    COLUMNS,
    READ_ONLY,
)
from tests.support.csv_files import FUTURE, export_csv, import_errors
from tests.support.problems import check_problem
from tests.support.task_api import EXPORT, create_task, import_csv


async def test_export_has_every_column_and_only_the_matching_tasks(
    client: httpx.AsyncClient,
) -> None:
    task = await create_task(
        client, title="one", tags=["a", "b"], payload={"n": 1}, priority="urgent"
    )
    await create_task(client, title="two", tags=["b"])
    content, rows = await export_csv(client, tag="a")
    assert content.splitlines()[0].decode() == ",".join((*COLUMNS, *READ_ONLY))
    [row] = rows
    assert (row["id"], row["title"], row["tags"], row["priority"]) == (
        task["id"],
        "one",
        "a;b",
        "urgent",
    )
    assert (json.loads(row["payload"]), row["created_at"], row["due_date"]) == (
        {"n": 1},
        task["created_at"],
        "",
    )
    check_problem(await client.get(EXPORT, params={"tags": "a"}), 422, "invalid_field")


async def test_export_without_tasks_is_a_header(client: httpx.AsyncClient) -> None:
    content, rows = await export_csv(client)
    assert (len(content.splitlines()), rows) == (1, [])


async def test_export_of_several_pages_has_every_task_once(
    client: httpx.AsyncClient, connection: asyncpg.Connection
) -> None:
    await import_csv(client, "title\n" + "\n".join(f"task {n}" for n in range(1050)))
    _, rows = await export_csv(client)
    assert sorted(row["title"] for row in rows) == sorted(f"task {n}" for n in range(1050))
    assert len({row["id"] for row in rows}) == 1050


async def test_cells_that_look_like_formulas_are_escaped(client: httpx.AsyncClient) -> None:
    for title in ("=1+1", "+1", "-1", "@x", "'=1", "\uff1d1"):
        await create_task(client, title=title, description=title)
    _, rows = await export_csv(client)
    assert [row["title"] for row in rows] == ["'=1+1", "'+1", "'-1", "'@x", "''=1", "'\uff1d1"]
    assert [row["description"] for row in rows] == [row["title"] for row in rows]


async def test_export_of_tasks_in_any_state_can_be_imported(
    client: httpx.AsyncClient, connection: asyncpg.Connection
) -> None:
    await create_task(client, title="waits", handler="noop", run_at=FUTURE.isoformat())
    await create_task(client, title="done", status="completed", handler="noop")
    await create_task(client, title="late", due_date=FUTURE.isoformat())
    moved = "UPDATE tasks SET due_date = due_date - interval '60 days', created_at = created_at - interval '60 days'"
    await connection.execute(f"{moved} WHERE title = 'late'")
    content, before = await export_csv(client)
    await connection.execute(
        "TRUNCATE tasks, queue, conversations, task_deltas, task_counts CASCADE"
    )
    assert (await import_csv(client, content, "all-or-nothing")).created == 3
    _, after = await export_csv(client)
    assert {row["title"]: [row[c] for c in COLUMNS] for row in after} == {
        row["title"]: [row[c] for c in COLUMNS] for row in before
    }


async def test_values_over_the_limits_survive_export_and_import(
    client: httpx.AsyncClient, connection: asyncpg.Connection
) -> None:
    tags = [f"tag {n} {'x' * 60}" for n in range(12)]
    await connection.execute(
        "INSERT INTO tasks (id, status, title, description, tags) "
        "VALUES (gen_random_uuid(), 'pending', $1, $2, $3)",
        title := "t" * 5_000, description := "d" * 9_000, tags,
    )  # fmt: skip
    content, _ = await export_csv(client)
    await connection.execute("TRUNCATE tasks, queue, task_deltas, task_counts CASCADE")
    assert (await import_csv(client, content, "all-or-nothing")).created == 1
    row = await connection.fetchrow("SELECT title, description, tags FROM tasks")
    assert row is not None and tuple(row) == (title, description, tags)
    plain = io.StringIO()
    csv.writer(plain).writerows([("title", "tags"), (title, ";".join(tags))])
    assert [e[:2] for e in await import_errors(client, plain.getvalue())] == [
        (2, "title"),
        (2, "tags"),
    ]


async def test_client_that_disconnects_stops_the_export(
    app: FastAPI, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    await import_csv(client, "title\n" + "x\n" * 1000)
    begun: list[int] = []
    real = app.state.transactions.__class__.read

    def counted(transactions: Any) -> Any:
        begun.append(1)
        return real(transactions)

    monkeypatch.setattr(app.state.transactions.__class__, "read", counted)
    left, asked = asyncio.Event(), False

    async def receive() -> dict[str, Any]:
        nonlocal asked
        if asked:
            await left.wait()
            return {"type": "http.disconnect"}
        asked = True
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            left.set()
            await asyncio.sleep(0)  # a real server also yields to the event loop here

    scope = {
        "type": "http", "method": "GET", "path": EXPORT, "raw_path": EXPORT.encode(), "query_string": b"",
        "headers": [(b"host", b"service")], "scheme": "http", "server": ("service", 80), "client": ("127.0.0.1", 1),
        "http_version": "1.1", "root_path": "", "asgi": {"version": "3.0", "spec_version": "2.3"},
    }  # fmt: skip
    await app(scope, receive, send)
    assert len(begun) < 5
