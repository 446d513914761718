"""The API's operations on the queue: enqueue, lock, update, withdraw and cancel tasks.

All run inside the caller's transaction and lock the queue row before the row in `tasks`.
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
    """A task to enqueue.

    `run_at` None means now; `fence` is the highest fence of earlier runs.
    """

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
    """Enqueue tasks. Raises asyncpg.UniqueViolationError if one is already in the queue."""
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
    """Lock the task's queue row until the transaction ends. None if it is not in the queue."""
    row = await connection.fetchrow(statement("lock_task"), task_id)
    return QueueRow(**row) if row else None


async def request_cancel(connection: Connection, task_id: UUID) -> datetime | None:
    """Ask the worker that holds the task to cancel it, and return the time of the request.

    None if no worker holds the task. If the task completes before the worker sees the request, it
    stays completed.
    """
    return await connection.fetchval(statement("request_cancel"), task_id)  # type: ignore[no-any-return]


async def hide(connection: Connection, task_id: UUID) -> None:
    """Hide a task that was deleted while a worker holds it, so that its run is hidden as well."""
    await connection.execute(statement("hide_task"), task_id)


async def withdraw(connection: Connection, task_id: UUID) -> int | None:
    """Remove the task from the queue and return its fence.

    None if it is not in the queue or if a worker holds it.
    """
    return await connection.fetchval(statement("withdraw_task"), task_id)  # type: ignore[no-any-return]


async def remove(connection: Connection, task_id: UUID) -> None:
    """Remove the task from the queue even if a worker holds it; that worker loses its claim."""
    await connection.execute(statement("remove_task"), task_id)


async def update(
    connection: Connection, entry: Entry, wakeups: Wakeups, *, reset: bool = False
) -> bool:
    """Change all properties of a waiting task except its fence.

    False if a worker holds the task or it is not in the queue. An unchanged `run_at` keeps the
    task's place in the queue. `reset` restores all attempts and withdraws a cancel request that no
    worker has seen.
    """
    row = await connection.fetchrow(
        statement("update_task"),
        entry.task_id,
        entry.queue,
        entry.priority,
        entry.run_at,
        entry.max_attempts,
        entry.timeout_seconds,
        entry.handler,
        bool(wakeups.inside([entry.queue])),
        reset,
    )
    return row is not None
