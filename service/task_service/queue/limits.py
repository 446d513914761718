"""Limits across all workers. One process at a time admits the tasks that wait for a limit.

A task under a limit waits in the state `blocked`. Admission counts the tasks of its key and its
queue that are ready or running, and makes as many blocked tasks ready as the limit allows. Claims
are independent of limits.
"""

from dataclasses import dataclass

from task_service.queue.statements import Connection, statement

READY_PER_KEY = 100
"""Ready tasks per key at most, so that tasks of other keys come in between."""
BATCH = 500
BLOCK_ROWS = 10_000


@dataclass(frozen=True, slots=True)
class Admission:
    """Number of admitted tasks, and seconds until the next token. None: no bucket is empty."""

    admitted: int
    seconds: float | None


async def is_check_due(connection: Connection, seconds: float) -> bool:
    """Return True if limits may apply to tasks and no process has checked for this long."""
    return bool(await connection.fetchval(statement("is_limit_check_due"), seconds))


async def admit(connection: Connection) -> Admission | None:
    """Admit as many tasks as the limits allow, in one transaction.

    None if another process is admitting. Then try again: that process may have read the queue
    before the caller's changes were committed. Also call again after an admission, until nothing
    is admitted.
    """
    async with connection.transaction():
        if not await connection.fetchval(statement("lock_admission")):
            return None
        [row] = await connection.fetch(statement("admit"), READY_PER_KEY, BATCH)
        return Admission(row["admitted"], row["seconds"])


async def block_by_limit(connection: Connection) -> bool:
    """Block the tasks that must wait under the current limits, in one transaction.

    False if the caller must call again: more rows are left, or another process is admitting.
    """
    async with connection.transaction():
        if not await connection.fetchval(statement("lock_admission")):
            return False
        blocked = int(await connection.fetchval(statement("block_by_limit"), BLOCK_ROWS))
        return blocked < BLOCK_ROWS
