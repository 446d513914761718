"""Dependencies: tasks that wait until other tasks have ended.

A waiting task is a blocked row of the queue, with one row of `dependencies` for each task that it
needs. The end of a need is never stored with the dependency but read from its current state:
the process that ends a task resolves its dependents, and a sweep finds those that were missed.
"""

from collections.abc import Collection, Sequence
from typing import NamedTuple
from uuid import UUID

from task_service.queue.statements import Connection, statement

BATCH = 1000


class Need(NamedTuple):
    """A task and one other task that it waits for.

    `cancels`: the waiting task is cancelled if the needed task does not complete.
    """

    task_id: UUID
    needs: UUID
    cancels: bool


async def add_needs(connection: Connection, needs: Sequence[Need]) -> set[UUID]:
    """Block tasks that this transaction has enqueued, unless all their needs have ended.

    Return needs that do not exist; in that case no task is blocked. Existing needs are locked until
    the transaction ends, so that no end is missed.
    """
    if not needs:
        return set()
    waiting, needed, cancels = zip(*needs, strict=True)
    missing = set(
        await connection.fetchval(statement("block_by_dependencies"), waiting, needed, cancels)
    )
    if not missing:
        await _resolve(connection, sorted(set(waiting)))
    return missing


async def record_end(connection: Connection, task_id: UUID) -> None:
    """Record that a task may have ended in this transaction: the next sweep resolves dependents."""
    await connection.execute(statement("record_ended_need"), task_id)


async def mark_awaited(connection: Connection, task_id: UUID) -> None:
    """Mark a task that has entered the queue again as awaited, if other tasks wait for it."""
    await connection.execute(statement("mark_awaited"), task_id)


async def resolve_dependents(connection: Connection, ended: Collection[UUID]) -> None:
    """Resolve the dependents of ended tasks, and those of tasks that this cancels.

    Opens its own transactions.
    """
    while ended:
        rows = await connection.fetch(statement("list_dependents"), ended)
        ended = await _resolve_in_batches(connection, [row[0] for row in rows])


async def sweep(connection: Connection, *, everything: bool) -> None:
    """Resolve the dependents of recorded ends; with `everything`, also those that were missed.

    Opens its own transactions.
    """
    while rows := await connection.fetch(statement("pop_ended_needs"), BATCH):
        await resolve_dependents(connection, [row[0] for row in rows])
    while everything:
        rows = await connection.fetch(statement("list_unresolved_dependents"), BATCH)
        cancelled = await _resolve_in_batches(connection, [row[0] for row in rows])
        await resolve_dependents(connection, cancelled)
        everything = len(rows) == BATCH


async def _resolve_in_batches(connection: Connection, waiting: Sequence[UUID]) -> list[UUID]:
    """Resolve in one transaction per batch and return the tasks that were cancelled."""
    cancelled: list[UUID] = []
    for first in range(0, len(waiting), BATCH):
        async with connection.transaction():
            cancelled += await _resolve(connection, waiting[first : first + BATCH])
    return cancelled


async def _resolve(connection: Connection, waiting: Sequence[UUID]) -> list[UUID]:
    await connection.execute(statement("lock_dependents"), waiting)
    rows = await connection.fetch(statement("resolve_dependents"), waiting)
    return [row[0] for row in rows if row[0] is not None]
