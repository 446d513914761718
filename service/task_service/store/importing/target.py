"""Writing rows that come from other services: each statement takes a JSON list and leaves alone
what is there already.

Each answers with the ids that are new. All run in the caller's transaction, on the driver's own
connection.
"""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import asyncpg
import orjson

TASKS = """
    WITH given AS (
        SELECT * FROM jsonb_to_recordset($1::jsonb) AS r (
            id uuid, number bigint, title text, description text, status text, shown text, status_at timestamptz,
            priority smallint, assigned_to text, due_date timestamptz, tags text[], handler text, created_by text,
            created_at timestamptz, updated_at timestamptz, deleted_at timestamptz, outcome text, worker_id uuid,
            error text, reason text
        )
        WHERE NOT EXISTS (SELECT FROM tasks AS t WHERE t.id = r.id)
    ),
    new AS (
        INSERT INTO tasks (
            id, number, title, description, status, status_at, priority, assigned_to, due_date, tags, handler,
            max_attempts, created_by, created_at, updated_at, deleted_at
        )
        OVERRIDING SYSTEM VALUE
        SELECT
            g.id, coalesce(f.number, nextval(pg_get_serial_sequence('tasks', 'number'))), g.title, g.description,
            g.status, CASE WHEN g.status IS NOT NULL THEN g.status_at END, g.priority, g.assigned_to, g.due_date,
            g.tags, g.handler, $2::smallint, g.created_by, g.created_at, g.updated_at, g.deleted_at
        FROM given AS g
        LEFT JOIN LATERAL (
            SELECT g.number WHERE NOT EXISTS (SELECT FROM tasks AS t WHERE t.number = g.number)
        ) AS f ON true
        ON CONFLICT (id) DO NOTHING
        RETURNING id, number
    ),
    lines AS (
        INSERT INTO task_history (task_id, new_status, changed_by, reason)
        SELECT new.id, g.shown, $3, g.reason FROM new JOIN given AS g USING (id)
    ),
    ended AS (
        INSERT INTO runs (task_id, fence, attempt, worker_id, finished_at, outcome, final, error, hidden)
        SELECT new.id, 1, 1, g.worker_id, g.status_at, g.outcome, true, g.error, g.deleted_at IS NOT NULL
        FROM new JOIN given AS g USING (id)
        WHERE g.outcome IS NOT NULL
    )
    SELECT id, number FROM new
"""
CONVERSATIONS = """
    INSERT INTO conversations (id, number, task_id, body, status, created_at, updated_at, processed_at)
    OVERRIDING SYSTEM VALUE
    SELECT
        g.id, coalesce(f.number, nextval(pg_get_serial_sequence('conversations', 'number'))), g.task_id, g.body,
        g.status, g.created_at, g.updated_at, g.processed_at
    FROM jsonb_to_recordset($1::jsonb) AS g (
        id uuid, number bigint, task_id uuid, body jsonb, status text, created_at timestamptz, updated_at timestamptz,
        processed_at timestamptz
    )
    JOIN tasks AS t ON t.id = g.task_id
    LEFT JOIN LATERAL (
        SELECT g.number WHERE NOT EXISTS (SELECT FROM conversations AS c WHERE c.number = g.number)
    ) AS f ON true
    WHERE NOT EXISTS (SELECT FROM conversations AS c WHERE c.id = g.id)
    ORDER BY g.number, g.created_at
    ON CONFLICT (id) DO NOTHING
    RETURNING id, number
"""
USERS = """
    INSERT INTO users (id, username, password_hash, role, disabled_at, created_by, created_at)
    SELECT id, username, password_hash, role, disabled_at, $2, created_at
    FROM jsonb_to_recordset($1::jsonb) AS g (
        id uuid, username text, password_hash text, role text, disabled_at timestamptz, created_at timestamptz
    )
    ON CONFLICT DO NOTHING
    RETURNING id, NULL::bigint
"""
SETTINGS = """
    INSERT INTO settings (key, value, description, updated_by, updated_at)
    SELECT key, value, description, $2, updated_at
    FROM jsonb_to_recordset($1::jsonb) AS g (key text, value jsonb, description text, updated_at timestamptz)
    ON CONFLICT DO NOTHING
    RETURNING key, NULL::bigint
"""
HISTORY = """
    INSERT INTO task_history (task_id, previous_status, new_status, changed_by, reason, at)
    SELECT g.task_id, g.previous_status, g.new_status, g.changed_by, g.reason, g.at
    FROM jsonb_to_recordset($1::jsonb) AS g (
        place integer, task_id uuid, previous_status text, new_status text, changed_by text, reason text, at timestamptz
    )
    JOIN tasks AS t ON t.id = g.task_id
    WHERE NOT EXISTS (
        SELECT FROM task_history AS h
        WHERE h.task_id = g.task_id AND h.at = g.at AND h.new_status = g.new_status
        AND h.previous_status IS NOT DISTINCT FROM g.previous_status
    )
    ORDER BY g.place
    RETURNING id, NULL::bigint
"""
DAILY_LOG = """
    WITH new AS (
        INSERT INTO daily_log (id, number, date, task_id, title, status, assigned_to, created_at)
        OVERRIDING SYSTEM VALUE
        SELECT
            g.id, coalesce(f.number, nextval(pg_get_serial_sequence('daily_log', 'number'))), g.date, g.task_id,
            coalesce(g.title, t.title), g.status, t.assigned_to, g.created_at
        FROM jsonb_to_recordset($1::jsonb) AS g (
            id uuid, number bigint, date date, task_id uuid, title text, status text, created_at timestamptz
        )
        JOIN tasks AS t ON t.id = g.task_id
        LEFT JOIN LATERAL (
            SELECT g.number WHERE NOT EXISTS (SELECT FROM daily_log AS d WHERE d.number = g.number)
        ) AS f ON true
        WHERE NOT EXISTS (SELECT FROM daily_log AS d WHERE d.id = g.id)
        ORDER BY g.number, g.created_at
        ON CONFLICT DO NOTHING
        RETURNING id, number, date
    ),
    days AS (
        INSERT INTO daily_loads (date, entries) SELECT date, count(*) FROM new GROUP BY date
        ON CONFLICT (date) DO UPDATE SET entries = daily_loads.entries + excluded.entries
    )
    SELECT id, number FROM new
"""
RAISE_NUMBERS = """
    SELECT setval(s, $2) FROM pg_get_serial_sequence($1, 'number') AS s
    WHERE $2 > coalesce(pg_sequence_last_value(s::regclass), 0)
"""
KNOWN = {
    "tasks": "SELECT id::text FROM tasks WHERE id = ANY ($1::uuid[])",
    "conversations": "SELECT id::text FROM conversations WHERE id = ANY ($1::uuid[])",
    "users": "SELECT id::text FROM users WHERE id = ANY ($1::uuid[])",
    "daily_log": "SELECT id::text FROM daily_log WHERE id = ANY ($1::uuid[])",
}
ONE_AT_A_TIME = "SELECT pg_advisory_xact_lock(7263401)"
Rows = Sequence[Mapping[str, Any]]


async def insert_rows(
    connection: asyncpg.Connection, statement: str, rows: Rows, *more: Any
) -> dict[str, int | None]:
    """Run one of the statements above; the new ids (of settings: keys), each with its number where
    it has one.
    """
    made = await connection.fetch(statement, orjson.dumps(rows, default=str).decode(), *more)
    return {str(row[0]): row[1] for row in made}


async def one_at_a_time(connection: asyncpg.Connection) -> None:
    """Wait for the chunk that another import is at, until the transaction ends: some rows only
    their contents tell.
    """
    await connection.execute(ONE_AT_A_TIME)


async def known_ids(connection: asyncpg.Connection, table: str, ids: Sequence[UUID]) -> set[str]:
    """Which of these ids a table has."""
    return {row[0] for row in await connection.fetch(KNOWN[table], ids)}


async def raise_numbers(connection: asyncpg.Connection, table: str, highest: int) -> None:
    """Let new rows have numbers above this one. Not undone with the transaction."""
    await connection.execute(RAISE_NUMBERS, table, highest)
