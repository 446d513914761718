"""What the API does with the queue: enter tasks, lock, change and withdraw them, ask for a cancel.

All run inside the caller's transaction, and lock the queue row before the row in `tasks`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID

from task_service.queue.statements import Connection, or_none, statement
from task_service.queue.wakeups import Wakeups

QueueState = Literal["ready", "running", "blocked"]


@dataclass(frozen=True, slots=True)
class Entry:
    """A task that a worker is to run; `run_at` None is now, `fence` the highest one of earlier runs."""

    task_id: UUID
    queue: str
    priority: int
    run_at: datetime | None
    max_attempts: int
    timeout_seconds: int | None
    handler: str
    fence: int = 0
    limit_key: str | None = None
    trace_context: str | None = None


@dataclass(frozen=True, slots=True)
class QueueRow:
    """A locked row of the queue."""

    task_id: UUID
    queue: str
    priority: int
    run_at: datetime
    state: QueueState
    attempt: int
    fence: int
    worker_id: UUID | None
    claimed_at: datetime | None
    cancel_requested_at: datetime | None
    handler: str


async def enqueue(connection: Connection, entries: Sequence[Entry], wakeups: Wakeups) -> None:
    """Enter tasks; asyncpg.UniqueViolationError when one is there already."""
    if not entries:
        return
    await connection.execute(
        statement("enqueue"),
        [e.task_id for e in entries],
        [e.queue for e in entries],
        [e.priority for e in entries],
        [e.run_at for e in entries],
        [e.max_attempts for e in entries],
        [e.timeout_seconds for e in entries],
        [e.handler for e in entries],
        [e.fence for e in entries],
        or_none([e.limit_key for e in entries]),
        or_none([e.trace_context for e in entries]),
        wakeups.inside(e.queue for e in entries),
    )


async def lock(connection: Connection, task_id: UUID) -> QueueRow | None:
    """Lock the task's queue row until the transaction ends; None when no worker has to run it."""
    row = await connection.fetchrow(statement("lock"), task_id)
    return QueueRow(**row) if row else None


async def request_cancel(connection: Connection, task_id: UUID) -> datetime | None:
    """Ask the worker that holds the task to cancel it; None when nobody does. A completion may come first, and wins."""
    return await connection.fetchval(statement("request_cancel"), task_id)  # type: ignore[no-any-return]


async def hide(connection: Connection, task_id: UUID) -> None:
    """Note that the task was deleted while a worker holds it: it does not count any more, nor will its run."""
    await connection.execute(statement("hide"), task_id)


async def withdraw(connection: Connection, task_id: UUID) -> int | None:
    """Take the task out of the queue and return its fence; None when it was not there, or a worker holds it."""
    return await connection.fetchval(statement("withdraw"), task_id)  # type: ignore[no-any-return]


async def remove(connection: Connection, task_id: UUID) -> None:
    """Take the task out of the queue whoever holds it; a worker that does has then lost its claim."""
    await connection.execute(statement("remove"), task_id)


async def update(
    connection: Connection, entry: Entry, wakeups: Wakeups, *, anew: bool = False
) -> bool:
    """Change how a waiting task is to run (all but its fence); False when it is held or not in the queue.

    A time that it has already it keeps, its place in the queue with it; `anew`: it gets all its attempts back, and a
    cancel that no worker got to is taken back.
    """
    row = await connection.fetchrow(
        statement("update"),
        entry.task_id,
        entry.queue,
        entry.priority,
        entry.run_at,
        entry.max_attempts,
        entry.timeout_seconds,
        entry.handler,
        bool(wakeups.inside([entry.queue])),
        anew,
    )
    return row is not None
