"""Import from service C: integer ids, conversations, and unfinished tasks that continue."""

import json
from datetime import UTC, datetime

import asyncpg

from task_service.domain.ids import new_id
from task_service.domain.statuses import Status
from task_service.embedded import EmbeddedPostgres
from task_service.services.importing.run import run_import
from tests.support.invariants import check_invariants
from tests.support.legacy_databases import C, count_rows, legacy_database
from tests.support.service_settings import settings_for

INSTANCE = str(new_id())


async def insert_rows(source: asyncpg.Connection) -> None:
    await source.execute(f"""
        INSERT INTO tasks (id, title, status, processed_at, processing_instance_id) VALUES
            (7, 'waits', 'pending', NULL, NULL),
            (8, 'is held', 'processing', NULL, '{INSTANCE}'),
            (9, 'is done', 'completed', '2024-01-01 12:00', '{INSTANCE}'),
            (10, 'failed', 'failed', '2024-01-01 13:00', NULL),
            (11, NULL, 'pending', NULL, NULL),
            (12, 'odd', 'exploded', NULL, NULL);
        INSERT INTO conversations (id, task_id, content, status) VALUES
            (70, 7, 'hello', 'pending'), (71, 7, 'there', 'pending'), (90, 9, '{{"text": 1}}', 'processed'),
            (91, 9, NULL, 'pending'), (99, 11, 'of no task', 'pending'), (100, 12345, 'of nothing', 'pending')
    """)


async def test_unfinished_tasks_are_queued_and_the_others_keep_their_status(
    postgres: EmbeddedPostgres, database: str, connection: asyncpg.Connection
) -> None:
    async with legacy_database(postgres, C) as (url, source):
        await insert_rows(source)
        summary = await run_import(settings_for(database), "c", url)
        before = await count_rows(connection)
        second = await run_import(settings_for(database), "c", url)
    rows = await connection.fetch("SELECT * FROM task_view ORDER BY number")
    assert [
        (r["number"], r["title"], r["status"], r["handler"], r["conversation_count"]) for r in rows
    ] == [
        (7, "waits", "pending", "conversations", 2),
        (8, "is held", "pending", "conversations", 0),
        (9, "is done", "completed", "conversations", 1),
        (10, "failed", "failed", "conversations", 0),
    ]
    assert (str(rows[2]["processing_instance_id"]), rows[2]["processed_at"]) == (
        INSTANCE,
        datetime(2024, 1, 1, 12, tzinfo=UTC),
    )
    assert [
        r["title"]
        for r in await connection.fetch(
            "SELECT title FROM queue JOIN tasks ON task_id = id ORDER BY 1"
        )
    ] == [
        "is held",
        "waits",
    ]
    bodies = await connection.fetch(
        "SELECT number, body, status FROM conversations ORDER BY number"
    )
    assert [(r["number"], json.loads(r["body"]), r["status"]) for r in bodies] == [
        (70, "hello", "pending"),
        (71, "there", "pending"),
        (90, '{"text": 1}', "processed"),
    ]
    assert sorted(summary.left_out.first) == [
        "conversations 91: the body is empty",
        "conversations 99: its task was not imported",
        "conversations: 1 have no task",
        "tasks 11: the title is empty",
        f"tasks 12: unknown status 'exploded': use {', '.join(Status)}",
    ]
    assert (before, second.of("tasks").made, second.of("tasks").known) == (
        await count_rows(connection),
        0,
        4,
    )
    await check_invariants(connection)


async def test_taken_number_is_replaced_and_new_numbers_continue(
    postgres: EmbeddedPostgres, database: str, connection: asyncpg.Connection
) -> None:
    await connection.execute(
        "INSERT INTO tasks (id, title, status) VALUES (gen_random_uuid(), 'ours', 'pending')"
    )
    async with legacy_database(postgres, C) as (url, source):
        await source.execute("INSERT INTO tasks (id, title) VALUES (1, 'taken'), (500, 'free')")
        summary = await run_import(settings_for(database), "c", url)
    await connection.execute(
        "INSERT INTO tasks (id, title, status) VALUES (gen_random_uuid(), 'later', 'pending')"
    )
    rows = await connection.fetch("SELECT title, number FROM tasks")
    numbers = {row["title"]: row["number"] for row in rows}
    assert (numbers["ours"], numbers["free"]) == (1, 500)
    assert numbers["taken"] > 500
    assert numbers["later"] > 500
    assert "1 rows got a new number because theirs was taken" in summary.render(dry_run=False)


async def test_tasks_are_manual_without_a_default_handler(
    postgres: EmbeddedPostgres, database: str, connection: asyncpg.Connection
) -> None:
    async with legacy_database(postgres, C) as (url, source):
        await insert_rows(source)
        await run_import(settings_for(database, default_handler=""), "c", url)
    assert (await count_rows(connection))["queue"] == 0
    assert (
        await connection.fetchval(
            "SELECT count(*) FROM task_view WHERE status = 'pending' AND handler IS NULL"
        )
        == 2
    )
    await check_invariants(connection)


async def test_conversations_keep_their_tasks_across_chunks(
    postgres: EmbeddedPostgres, database: str, connection: asyncpg.Connection
) -> None:
    async with legacy_database(postgres, C) as (url, source):
        await source.execute("""
            INSERT INTO tasks (title) SELECT 'task ' || n FROM generate_series(1, 2100) AS n;
            INSERT INTO conversations (task_id, content) SELECT n % 2100 + 1, n::text FROM generate_series(1, 5000) AS n
        """)
        summary = await run_import(settings_for(database), "c", url)
    assert (summary.of("tasks").made, summary.of("conversations").made, summary.left_out.count) == (
        2100,
        5000,
        0,
    )
    wrong = """
        SELECT count(*) FROM conversations AS c JOIN tasks AS t ON t.id = c.task_id
        WHERE (c.body #>> '{}')::int % 2100 + 1 <> t.number
    """
    assert await connection.fetchval(wrong) == 0
