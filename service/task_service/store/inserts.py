"""New tasks: many by COPY, one by a statement; in the caller's transaction, on the driver's own
connection (`raw`).

COPY fires the same triggers as INSERT, and writes 10,000 rows in the time of some hundred INSERTs.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from task_service.store.database import Driver
from task_service.telemetry.helpers import traced_statement


class NewRow(NamedTuple):
    """A row of `tasks`. `status` is None while the queue decides; `payload` is JSON text."""

    id: UUID
    title: str
    description: str | None
    status: str | None
    status_at: datetime | None
    priority: int
    assigned_to: str | None
    due_date: datetime | None
    tags: list[str]
    handler: str | None
    payload: str | None
    queue: str
    run_at: datetime | None
    max_attempts: int
    timeout_seconds: int | None
    limit_key: str | None
    created_by: str


class FirstLine(NamedTuple):
    """The first line of a task's history."""

    task_id: UUID
    new_status: str
    changed_by: str


class NewConversationRow(NamedTuple):
    """A row of `conversations`; `body` is JSON text."""

    id: UUID
    task_id: UUID
    body: str


Row = NewRow | FirstLine | NewConversationRow
TABLES: dict[type[Row], str] = {
    NewRow: "tasks",
    FirstLine: "task_history",
    NewConversationRow: "conversations",
}
INSERT_ONE = """
    WITH line AS (INSERT INTO task_history (task_id, new_status, changed_by) VALUES ($1, $18, $17))
    INSERT INTO tasks (
        id, title, description, status, status_at, priority, assigned_to, due_date, tags, handler, payload, queue,
        run_at, max_attempts, timeout_seconds, limit_key, created_by
    )
    VALUES (
        $1, $2, $3, $4, CASE WHEN $5::timestamptz IS NOT NULL THEN clock_timestamp() END, $6, $7, $8, $9, $10, $11, $12,
        $13, $14, $15, $16, $17
    )
"""
"""A NewRow's fields, and the status for its first line. `status_at` is by the database's clock, as
`created_at` is.
"""


async def copy_rows(connection: Driver, rows: Sequence[Row]) -> None:
    """Write rows of one kind into their table."""
    if not rows:
        return
    kind = type(rows[0])
    await connection.copy_records_to_table(TABLES[kind], records=rows, columns=list(kind._fields))


async def insert_row(connection: Driver, row: NewRow, shown_status: str) -> None:
    """Write one task with the first line of its history, in one statement."""
    with traced_statement(INSERT_ONE):
        await connection.execute(INSERT_ONE, *row, shown_status)
