"""Import from service A: UUIDs, and statuses in upper case."""

from datetime import UTC, datetime

import asyncpg

from task_service.domain.ids import new_id
from task_service.embedded import EmbeddedPostgres
from task_service.services.importing.run import run_import
from tests.support.invariants import check_invariants
from tests.support.legacy_databases import A, count_rows, legacy_database
from tests.support.service_settings import settings_for

STATUSES = ("PENDING", "IN_PROGRESS", "COMPLETED", "FAILED", "CANCELLED")


async def test_tasks_keep_ids_times_and_long_titles_and_are_manual(
    postgres: EmbeddedPostgres, database: str, connection: asyncpg.Connection
) -> None:
    ids = [new_id() for _ in STATUSES]
    created_at = datetime(2023, 5, 1, 12, tzinfo=UTC)
    async with legacy_database(postgres, A) as (url, source):
        await source.executemany(
            "INSERT INTO tasks (id, title, status, created_at, updated_at) VALUES ($1, $2, $3, $4, $4)",
            [
                (i, f"{status} " + "x" * 300, status, created_at)
                for i, status in zip(ids, STATUSES, strict=True)
            ],
        )
        summary = await run_import(settings_for(database), "a", url)
    assert (summary.of("tasks").made, summary.left_out.count) == (5, 0)
    rows = await connection.fetch(
        "SELECT id, title, status, handler, created_at, updated_at, processed_at FROM task_view ORDER BY id"
    )
    assert [row["id"] for row in rows] == ids
    assert [row["status"] for row in rows] == [status.lower() for status in STATUSES]
    assert {len(row["title"]) > 300 for row in rows} == {True}
    assert {(row["handler"], row["created_at"], row["updated_at"]) for row in rows} == {
        (None, created_at, created_at)
    }
    assert [row["processed_at"] for row in rows] == [None, None, created_at, created_at, created_at]
    [line] = await connection.fetch("SELECT * FROM task_history WHERE task_id = $1", ids[1])
    assert (line["new_status"], line["changed_by"]) == ("in_progress", "import")
    assert line["reason"] == f"imported from service A, id {ids[1]}"
    await check_invariants(connection)


async def test_second_run_imports_only_new_tasks(
    postgres: EmbeddedPostgres, database: str, connection: asyncpg.Connection
) -> None:
    async with legacy_database(postgres, A) as (url, source):
        await source.execute(
            "INSERT INTO tasks (id, title) SELECT gen_random_uuid(), 'task ' || n FROM generate_series(1, 2500) n"
        )
        await run_import(settings_for(database), "a", url)
        before = await count_rows(connection)
        await source.execute("INSERT INTO tasks (id, title) VALUES (gen_random_uuid(), 'new')")
        second = await run_import(settings_for(database), "a", url)
    assert (before["tasks"], before["task_history"]) == (2500, 2500)
    figures = second.of("tasks")
    assert (figures.read, figures.made, figures.known, figures.left_out) == (2501, 1, 2500, 0)
    assert await count_rows(connection) == before | {"tasks": 2501, "task_history": 2501}


async def test_dry_run_reports_the_changes_and_writes_nothing(
    postgres: EmbeddedPostgres, database: str, connection: asyncpg.Connection
) -> None:
    async with legacy_database(postgres, A) as (url, source):
        await source.execute(
            "INSERT INTO tasks (id, title) VALUES (gen_random_uuid(), 'one'), (gen_random_uuid(), ' ')"
        )
        before = await count_rows(connection)
        summary = await run_import(settings_for(database), "a", url, dry_run=True)
    assert (summary.of("tasks").made, summary.of("tasks").left_out) == (1, 1)
    assert summary.render(dry_run=True).startswith("Dry run: nothing was written")
    assert await count_rows(connection) == before
