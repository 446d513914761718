"""Unique keys in batches and CSV files."""

from typing import Any

import asyncpg
import httpx
import pytest

from task_service.api.routes.batch import BatchResult
from task_service.api.routes.csv import ImportReport
from task_service.services.csv import importer
from tests.support.database_rows import count_rows
from tests.support.task_api import import_csv, post_batch
from tests.support.unique_keys import create_new, get_existing

pytestmark = pytest.mark.asyncio


async def test_batch_reports_existing_tasks_and_duplicate_keys(
    client: httpx.AsyncClient, connection: asyncpg.Connection
) -> None:
    there = await create_new(client, "there")
    rows: list[dict[str, Any]] = [{"title": f"row {n}", "handler": "noop"} for n in range(5)]
    for row, key in zip(rows, ("new", None, "there", "new", "other"), strict=True):
        row["unique_key"] = key
    response = await post_batch(client, rows)
    assert response.status_code == 201, response.text
    created = BatchResult.model_validate_json(response.content)
    assert (created.created, created.present) == (3, [2, 3])
    assert [t.title for t in created.items] == ["row 0", "row 1", "a task", "row 0", "row 4"]
    assert str(created.items[2].id) == there
    assert (
        await count_rows(connection) == await connection.fetchval("SELECT count(*) FROM queue") == 4
    )
    again = await post_batch(client, [rows[0], rows[2]])
    assert (again.status_code, again.json()["created"], again.json()["present"]) == (
        200,
        0,
        [0, 1],
    )


async def test_row_created_as_completed_does_not_hold_its_key(client: httpx.AsyncClient) -> None:
    row = {"title": "a", "unique_key": "k"}
    created = (await post_batch(client, [row | {"status": "completed"}, row, row])).json()
    assert (created["created"], created["present"]) == (2, [2])
    assert await get_existing(client) == created["items"][1]["id"]
    ended = {"title": "a", "unique_key": "p", "status": "completed", "unique_seconds": 60}
    created = (await post_batch(client, [ended, {"title": "b", "unique_key": "p"}])).json()
    assert (created["created"], created["present"]) == (1, [1])


async def test_import_reports_the_lines_of_existing_tasks(
    client: httpx.AsyncClient,
    connection: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importer, "CHUNK", 2)
    await create_new(client, "there")
    lines = [
        "title,unique_key,unique_seconds",
        "a,k,60",
        "b,there,",
        "c,k,",
        "d,,",
        ",x,",
        "e,k,",
        "f,new,",
    ]
    report: ImportReport = await import_csv(client, "\r\n".join(lines))
    assert (report.rows, report.created, report.skipped) == (7, 3, 1)
    assert (report.present, report.present_lines) == (3, [3, 4, 7])
    assert await count_rows(connection) == 4
    assert (
        await connection.fetchval("SELECT count(*) FROM unique_keys WHERE expires_at > now()") == 1
    )
