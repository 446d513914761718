"""Tasks that wait for others. What waits is a blocked row of the queue, with a row of `dependencies` for each need.

Whether a need has ended is asked of its state, never remembered: whoever hears of an end looks at those who wait for
it, and a sweep finds those whom nobody has told.
"""

from collections.abc import Collection, Sequence
from typing import NamedTuple
from uuid import UUID

from task_service.queue.statements import Connection, statement

BATCH = 1000


class Need(NamedTuple):
    """What a task waits for; `cancels`: it is cancelled when that does not complete."""

    task_id: UUID
    needs: UUID
    cancels: bool


async def block(connection: Connection, needs: Sequence[Need]) -> set[UUID]:
    """Let tasks wait that this transaction has entered, unless all that they need has ended.

    Returns needs that are not there; then nothing waits. The others are locked until the transaction ends, so that no
    end is missed.
    """
    if not needs:
        return set()
    waiting, needed, cancels = zip(*needs, strict=True)
    missing = set(await connection.fetchval(statement("block"), waiting, needed, cancels))
    if not missing:
        await _resolve(connection, sorted(set(waiting)))
    return missing


async def note_end(connection: Connection, task_id: UUID) -> None:
    """Note that a task may have ended in the caller's transaction: the next sweep looks at those who wait for it."""
    await connection.execute(statement("note_end"), task_id)


async def keep_awaited(connection: Connection, task_id: UUID) -> None:
    """Let the end of a task be told that has just entered the queue again, if others wait for it."""
    await connection.execute(statement("keep_awaited"), task_id)


async def settle(connection: Connection, ended: Collection[UUID]) -> None:
    """Let go on who waits for these tasks, and who waits for those that this cancels. Opens transactions of its own."""
    while ended:
        ended = await _settle(
            connection, [row[0] for row in await connection.fetch(statement("waiting_for"), ended)]
        )


async def sweep(connection: Connection, *, everything: bool) -> None:
    """Settle what was noted; with `everything` also what nobody was told of. Opens transactions of its own."""
    while noted := [row[0] for row in await connection.fetch(statement("take_ended"), BATCH)]:
        await settle(connection, noted)
    while everything:
        left = [row[0] for row in await connection.fetch(statement("unresolved"), BATCH)]
        await settle(connection, await _settle(connection, left))
        everything = len(left) == BATCH


async def _settle(connection: Connection, waiting: Sequence[UUID]) -> list[UUID]:
    """Resolve in transactions of their own; the tasks that were cancelled."""
    cancelled: list[UUID] = []
    for first in range(0, len(waiting), BATCH):
        async with connection.transaction():
            cancelled += await _resolve(connection, waiting[first : first + BATCH])
    return cancelled


async def _resolve(connection: Connection, waiting: Sequence[UUID]) -> list[UUID]:
    await connection.execute(statement("lock_waiting"), waiting)
    rows = await connection.fetch(statement("resolve"), waiting)
    return [row[0] for row in rows if row[0] is not None]
