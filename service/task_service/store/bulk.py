"""Many tasks at once, by COPY: in the caller's transaction, on the driver's own connection (`store.database.raw`).

COPY fires the same triggers as INSERT, and writes 10,000 rows in the time of some hundred INSERTs.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias
from uuid import UUID

import asyncpg
from sqlalchemy import Text, cast, select
from sqlalchemy.ext.asyncio import AsyncConnection

from task_service.store.tables import task_view, tasks
from task_service.store.tasks import LIST_COLUMNS, TaskRow, task_row

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

    Driver: TypeAlias = asyncpg.Connection[Any] | PoolConnectionProxy[Any]
else:
    Driver = asyncpg.Connection


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
TABLES: dict[type[Row], str] = {NewRow: "tasks", FirstLine: "task_history", NewConversationRow: "conversations"}


async def copy_rows(connection: Driver, rows: Sequence[Row]) -> None:
    """Write rows of one kind into their table."""
    if not rows:
        return
    kind = type(rows[0])
    await connection.copy_records_to_table(TABLES[kind], records=rows, columns=list(kind._fields))


async def read_tasks(connection: AsyncConnection, ids: Sequence[UUID]) -> list[TaskRow]:
    """The tasks with these ids, in their order, without payload and result; those that are gone are left out."""
    rows = await connection.execute(select(*LIST_COLUMNS).where(task_view.c.id.in_(ids)))
    found = {row.id: task_row(row) for row in rows}
    return [found[i] for i in ids if i in found]


async def read_payloads(connection: AsyncConnection, ids: Sequence[UUID]) -> dict[UUID, str]:
    """The payloads of those of these tasks that have one, as JSON text."""
    c = tasks.c
    rows = await connection.execute(select(c.id, cast(c.payload, Text)).where(c.id.in_(ids), c.payload.is_not(None)))
    return {row[0]: row[1] for row in rows}
