"""Tasks: read with their derived status, lock, insert, change, remove. All runs in the caller's
transaction.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import (
    Integer,
    Text,
    Uuid,
    bindparam,
    cast,
    column,
    delete,
    exists,
    func,
    select,
    update,
)
from sqlalchemy.dialects.postgresql.asyncpg import dialect
from sqlalchemy.ext.asyncio import AsyncConnection

from task_service.domain.statuses import Status
from task_service.store.database import raw
from task_service.store.tables import conversations, queue, runs, task_view, tasks
from task_service.telemetry.helpers import traced_statement


class TaskRow(NamedTuple):
    """A task as people see it. `priority` is a rank; `payload` and `result` are JSON text. Lists
    end before `payload`.

    A tuple, because lists make fifty at a time.
    """

    id: UUID
    number: int
    title: str
    description: str | None
    status: Status
    priority: int
    assigned_to: str | None
    due_date: datetime | None
    tags: list[str]
    handler: str | None
    queue: str
    run_at: datetime | None
    max_attempts: int
    timeout_seconds: int | None
    limit_key: str | None
    attempt: int
    fence: int
    outcome: str | None
    error: str | None
    created_by: str | None
    created_at: datetime
    updated_at: datetime
    processed_at: datetime | None
    processing_instance_id: UUID | None
    cancel_requested_at: datetime | None
    conversation_count: int
    version: int
    stamp: int
    payload: str | None = None
    result: str | None = None
    progress: float | None = None
    progress_note: str | None = None
    progress_at: datetime | None = None
    waits_for: Sequence[UUID] = ()


STATUS_AT = TaskRow._fields.index("status")
STATUSES = {str(status): status for status in Status}
DETAILS_AT = TaskRow._fields.index("payload")
LIST_COLUMNS = tuple(task_view.c[name] for name in TaskRow._fields[:DETAILS_AT])
ONE_TASK = (
    func.read_task(bindparam("id", type_=Uuid()))
    .table_valued(*(column(c.name, c.type) for c in task_view.c))
    .alias("one_task")
)
"""`task_view` of one id, by a plan that is kept."""
JSON_COLUMNS = {"payload", "result"}
COLUMNS = tuple(
    cast(c, Text) if c.name in JSON_COLUMNS else c
    for c in (ONE_TASK.c[name] for name in TaskRow._fields)
)


@dataclass(frozen=True, slots=True)
class LockedTask:
    """What the locked row in `tasks` holds that the view does not show."""

    own_status: Status | None
    deleted_at: datetime | None
    queued: bool


def task_row(values: Any) -> TaskRow:
    """Make a row of `COLUMNS` or `LIST_COLUMNS` a TaskRow."""
    own = list(values)
    own[STATUS_AT] = STATUSES[own[STATUS_AT]]
    return TaskRow(*own)


# Statements are made once: to build one costs more than to run it.
LIVE = tasks.c.deleted_at.is_(None)
BY_ID = select(*COLUMNS)
LIVE_BY_ID = BY_ID.where(ONE_TASK.c.deleted_at.is_(None))
LIVE_SQL = str(LIVE_BY_ID.compile(dialect=dialect()))  # type: ignore[no-untyped-call]
AFTER_NUMBER = (
    select(*LIST_COLUMNS)
    .where(task_view.c.number > bindparam("number"), task_view.c.deleted_at.is_(None))
    .order_by(task_view.c.number)
    .limit(bindparam("most", type_=Integer))
)
ID_OF_NUMBER = select(tasks.c.id).where(tasks.c.number == bindparam("number"), LIVE)
NUMBER_OF_ID = select(tasks.c.number).where(tasks.c.id == bindparam("id"), LIVE)
LOCK = (
    select(tasks.c.status, tasks.c.deleted_at)
    .where(tasks.c.id == bindparam("id"))
    .with_for_update(key_share=True)
)
IS_QUEUED = select(exists().where(queue.c.task_id == bindparam("id")))


async def read_task(connection: AsyncConnection, task_id: UUID) -> TaskRow | None:
    """The task with its derived status; None when there is none, or it is deleted."""
    driver = await raw(
        connection
    )  # the most frequent statement: SQLAlchemy's part would be half of it
    with traced_statement(LIVE_SQL):
        row = await driver.fetchrow(LIVE_SQL, task_id)
    return task_row(row) if row else None


async def read_any_task(connection: AsyncConnection, task_id: UUID) -> TaskRow | None:
    """The task, also when it is soft-deleted."""
    row = (await connection.execute(BY_ID, {"id": task_id})).first()
    return task_row(row) if row else None


async def read_tasks(connection: AsyncConnection, ids: Sequence[UUID]) -> list[TaskRow]:
    """The tasks with these ids, in their order, without payload and result; those that are gone are
    left out.
    """
    rows = await connection.execute(select(*LIST_COLUMNS).where(task_view.c.id.in_(ids)))
    found = {row.id: task_row(row) for row in rows}
    return [found[i] for i in ids if i in found]


async def read_payloads(connection: AsyncConnection, ids: Sequence[UUID]) -> dict[UUID, str]:
    """The payloads of those of these tasks that have one, as JSON text."""
    c = tasks.c
    rows = await connection.execute(
        select(c.id, cast(c.payload, Text)).where(c.id.in_(ids), c.payload.is_not(None))
    )
    return {row[0]: row[1] for row in rows}


async def find_task_id(connection: AsyncConnection, number: int) -> UUID | None:
    """The id of the task that service C's clients know by this number."""
    return await connection.scalar(ID_OF_NUMBER, {"number": number})


async def read_task_number(connection: AsyncConnection, task_id: UUID) -> int | None:
    """The number of a task that is not deleted."""
    return await connection.scalar(NUMBER_OF_ID, {"id": task_id})


async def read_numbers(connection: AsyncConnection, task_ids: Collection[UUID]) -> dict[UUID, int]:
    """The numbers of these tasks, deleted ones too; those that are gone for good are not in it."""
    rows = await connection.execute(
        select(tasks.c.id, tasks.c.number).where(tasks.c.id.in_(task_ids))
    )
    return {row.id: row.number for row in rows}


async def read_after_number(connection: AsyncConnection, number: int, limit: int) -> list[TaskRow]:
    """The next tasks in the order of their numbers, without payload and result."""
    rows = await connection.execute(AFTER_NUMBER, {"number": number, "most": limit})
    return [task_row(row) for row in rows]


async def lock_task(connection: AsyncConnection, task_id: UUID) -> LockedTask | None:
    """Lock the row in `tasks` (after the one in `queue`); None when there is no such task."""
    row = (await connection.execute(LOCK, {"id": task_id})).first()
    if row is None:
        return None
    # A statement of its own: its snapshot is taken after the lock, so it sees what the lock waited
    # for.
    queued = await connection.scalar(IS_QUEUED, {"id": task_id})
    return LockedTask(Status(row.status) if row.status else None, row.deleted_at, bool(queued))


async def update_task(
    connection: AsyncConnection, task_id: UUID, columns: Mapping[str, Any]
) -> int:
    """Write columns of one task and raise its version and stamp; gives the new stamp."""
    own = {"status_at": func.clock_timestamp()} if "status" in columns else {}
    counters = {name: tasks.c[name] + 1 for name in ("version", "stamp")}
    values = {**columns, **own, **counters, "updated_at": func.clock_timestamp()}
    statement = update(tasks).where(tasks.c.id == task_id).values(values).returning(tasks.c.stamp)
    return int(await connection.scalar(statement) or 0)


async def reopen_runs(connection: AsyncConnection, task_id: UUID) -> None:
    """Let the task's last run no longer decide its status."""
    statement = update(runs).where(runs.c.task_id == task_id, runs.c.final)
    await connection.execute(statement.values(final=False, reopened=True))


async def hide_runs(connection: AsyncConnection, task_id: UUID) -> None:
    """Note that the task was deleted: its final run counts no more."""
    await connection.execute(
        update(runs).where(runs.c.task_id == task_id, runs.c.final).values(hidden=True)
    )


async def erase_task(connection: AsyncConnection, task_id: UUID) -> None:
    """Remove a task for good, with its runs and conversations; its history stays. Its queue row
    must be gone before.
    """
    await connection.execute(delete(conversations).where(conversations.c.task_id == task_id))
    await connection.execute(delete(runs).where(runs.c.task_id == task_id))
    await connection.execute(delete(tasks).where(tasks.c.id == task_id))
