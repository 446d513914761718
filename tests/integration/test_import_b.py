"""Import from service B: integer ids, settings, dates, and times without a zone."""

import json
from datetime import UTC, datetime
from uuid import UUID

import asyncpg

from task_service.embedded import EmbeddedPostgres
from task_service.services.importing.run import run_import
from tests.support.invariants import check_invariants
from tests.support.legacy_databases import B, count_rows, legacy_database
from tests.support.service_settings import settings_for


async def test_tasks_and_settings_are_imported_with_stable_ids(
    postgres: EmbeddedPostgres, database: str, connection: asyncpg.Connection
) -> None:
    async with legacy_database(postgres, B) as (url, source):
        await source.execute("""
            INSERT INTO tasks (title, status, priority, due_date, created_at) VALUES
                ('one', 'done', 'HIGH', '2020-02-29', '2020-01-02 03:04:05'), ('two', NULL, 'whatever', NULL, now());
            INSERT INTO settings VALUES ('theme', 'dark', 'colours'), ('', 'x', NULL), ('nothing', NULL, NULL)
        """)
        summary = await run_import(settings_for(database), "b", url)
        before = await count_rows(connection)
        await run_import(settings_for(database), "b", url)
    one, two = await connection.fetch("SELECT * FROM task_view ORDER BY title")
    assert one["id"] == UUID("86d6bec2-0de1-52e2-b719-518005301e05")
    assert (one["status"], one["priority"], one["created_at"]) == (
        "completed", 1, datetime(2020, 1, 2, 3, 4, 5, tzinfo=UTC),
    )  # fmt: skip
    assert one["due_date"] == datetime(2020, 2, 29, tzinfo=UTC)
    assert (two["status"], two["priority"]) == ("pending", 2)
    assert [json.loads(row[0]) for row in await connection.fetch("SELECT value FROM settings")] == [
        "dark"
    ]
    assert summary.left_out.first == [
        "settings : the key is empty",
        "settings nothing: the value is empty",
    ]
    assert summary.notes.first == ["task 2: unknown priority 'whatever', imported as medium"]
    assert await count_rows(connection) == before
    await check_invariants(connection)


async def test_database_without_settings_imports_its_tasks(
    postgres: EmbeddedPostgres, database: str, connection: asyncpg.Connection
) -> None:
    async with legacy_database(
        postgres, 'CREATE TABLE "Task" (id uuid, name text, completed boolean, colour text)'
    ) as (
        url,
        source,
    ):
        await source.execute("""INSERT INTO "Task" VALUES (gen_random_uuid(), 'x', true, 'red')""")
        summary = await run_import(settings_for(database), "b", url)
    assert summary.notes.first == [
        "Task.colour is not read",
        "the table settings does not exist, so it is not imported",
    ]
    assert await connection.fetchval("SELECT status FROM task_view") == "completed"
