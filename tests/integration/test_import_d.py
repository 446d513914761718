"""Import from service D: users, tasks, audit log and daily log."""

import asyncio
from datetime import UTC, date, datetime

import asyncpg
from argon2 import PasswordHasher

from task_service.embedded import EmbeddedPostgres
from task_service.services.importing.run import run_import
from tests.support.invariants import check_invariants
from tests.support.legacy_databases import D, count_rows, legacy_database
from tests.support.service_settings import settings_for

HASH = PasswordHasher(time_cost=1, memory_cost=64).hash("correct horse")


async def insert_rows(source: asyncpg.Connection) -> None:
    await source.execute(f"""
        INSERT INTO users (id, username, hashed_password, role, is_active) VALUES
            (1, 'ada', '{HASH}', 'Admin', true), (2, 'bob', '$2b$12$abc', 'manager', true),
            (3, 'eve', '{HASH}', 'editor', false), (4, ' ', 'x', 'viewer', true);
        INSERT INTO tasks (id, title, status, created_by, is_deleted, updated_at) VALUES
            (1, 'open', 'active', 1, false, NULL), (2, 'done', 'completed', 2, false, '2024-03-01 10:00'),
            (3, 'gone', 'active', 1, true, '2024-03-02 10:00');
        INSERT INTO task_audit_log (task_id, previous_status, new_status, modified_by, timestamp) VALUES
            (2, 'active', 'in_progress', 1, '2024-02-01 10:00'), (2, 'in_progress', 'completed', 2, '2024-03-01 10:00'),
            (3, 'active', 'deleted', 1, '2024-03-02 10:00'), (77, 'active', 'completed', 1, '2024-03-02 10:00'),
            (2, 'completed', NULL, 1, '2024-03-02 10:00');
        INSERT INTO daily_log (id, task_id, title, status, date) VALUES
            (30, 1, 'open', 'active', '2024-02-01'), (31, 2, 'was open', 'active', '2024-02-01'),
            (32, 1, 'open', 'active', '2024-02-02'), (33, 77, 'lost', 'active', '2024-02-02')
    """)


async def test_users_tasks_and_their_history_are_imported_once(
    postgres: EmbeddedPostgres, database: str, connection: asyncpg.Connection
) -> None:
    async with legacy_database(postgres, D) as (url, source):
        await insert_rows(source)
        summary = await run_import(settings_for(database), "d", url)
        before = await count_rows(connection)
        later = await run_import(settings_for(database), "d", url)
    assert await count_rows(connection) == before
    assert [f.made for f in later.figures.values()] == [0, 0, 0, 0]
    rows = await connection.fetch("SELECT * FROM task_view ORDER BY number")
    assert [
        (r["number"], r["status"], r["created_by"], r["deleted_at"] is not None) for r in rows
    ] == [
        (1, "pending", "ada", False),
        (2, "completed", "bob", False),
        (3, "cancelled", "ada", True),
    ]
    lines = await connection.fetch(
        "SELECT previous_status, new_status, changed_by, at FROM task_history WHERE task_id = $1 ORDER BY at",
        rows[1]["id"],
    )
    assert [tuple(line)[:3] for line in lines] == [
        ("pending", "in_progress", "ada"),
        ("in_progress", "completed", "bob"),
        (None, "completed", "import"),
    ]
    assert lines[0]["at"] == datetime(2024, 2, 1, 10, tzinfo=UTC)
    entries = await connection.fetch(
        "SELECT number, date, title, status FROM daily_log ORDER BY number"
    )
    assert [tuple(e) for e in entries] == [
        (30, date(2024, 2, 1), "open", "pending"),
        (31, date(2024, 2, 1), "was open", "pending"),
        (32, date(2024, 2, 2), "open", "pending"),
    ]
    loads = await connection.fetch("SELECT date, entries FROM daily_loads")
    assert {load["date"]: load["entries"] for load in loads} == {
        date(2024, 2, 1): 2,
        date(2024, 2, 2): 1,
    }
    assert sorted(summary.left_out.first) == [
        "audit_log 4: its task was not imported",
        "audit_log 5: the new status is missing",
        "daily_log 33: its task was not imported, or has an entry for that day",
        "users 4: the username is empty",
    ]
    assert "the table alembic_version is not read" in summary.notes.first
    await check_invariants(connection)


async def test_concurrent_runs_import_nothing_twice(
    postgres: EmbeddedPostgres, database: str, connection: asyncpg.Connection
) -> None:
    async with legacy_database(postgres, D) as (url, source):
        await insert_rows(source)
        await source.execute("""
            INSERT INTO tasks (id, title, created_by) SELECT n, 'task ' || n, 1 FROM generate_series(100, 4100) AS n;
            INSERT INTO task_audit_log (task_id, previous_status, new_status, modified_by, timestamp)
            SELECT n, 'active', 'in_progress', 1, '2024-02-01 10:00' FROM generate_series(100, 4100) AS n
        """)
        summaries = await asyncio.gather(
            *(run_import(settings_for(database, lease_seconds=15), "d", url) for _ in range(2))
        )
        before = await count_rows(connection)
        later = await run_import(settings_for(database), "d", url)
    assert [sum(s.of(table).made for s in summaries) for table in ("users", "tasks", "audit_log", "daily_log")] == [
        3, 4004, 4004, 3,
    ]  # fmt: skip
    assert (await count_rows(connection), sum(f.made for f in later.figures.values())) == (
        before,
        0,
    )
    await check_invariants(connection)


async def test_argon2_hashes_are_kept_and_other_passwords_are_disabled(
    postgres: EmbeddedPostgres, database: str, connection: asyncpg.Connection
) -> None:
    await connection.execute(
        "INSERT INTO users (id, username, password_hash, role) VALUES (gen_random_uuid(), 'EVE', 'hers', 'viewer')"
    )
    async with legacy_database(postgres, D) as (url, source):
        await insert_rows(source)
        summary = await run_import(settings_for(database), "d", url)
    users = {r["username"]: r for r in await connection.fetch("SELECT * FROM users")}
    assert (users["ada"]["password_hash"], users["ada"]["role"], users["ada"]["disabled_at"]) == (
        HASH,
        "admin",
        None,
    )
    assert (users["bob"]["password_hash"], users["bob"]["role"]) == ("!", "viewer")
    assert users["EVE"]["password_hash"] == "hers"
    assert "eve" not in users
    assert "users 3: another user has this username" in summary.left_out.first
    notes = "\n".join(summary.notes.first)
    assert "user bob: unsupported password hash (bcrypt); set the password again" in notes
    assert "user bob: unknown role 'manager', imported as viewer" in notes


async def test_disabled_user_stays_disabled(
    postgres: EmbeddedPostgres, database: str, connection: asyncpg.Connection
) -> None:
    async with legacy_database(postgres, D) as (url, source):
        await insert_rows(source)
        await run_import(settings_for(database), "d", url)
    assert await connection.fetchval(
        "SELECT disabled_at IS NOT NULL FROM users WHERE username = 'eve'"
    )
