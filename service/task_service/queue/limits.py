"""Limits across all workers: what waits for one is admitted, by one process at a time.

A task under a limit waits as `blocked`. Admission counts what is in line or running under its key and its queue, and
lets as many more into the line as there is room for; claims know nothing of it.
"""

from dataclasses import dataclass

from task_service.queue.statements import Connection, statement

WINDOW = 100
"""Tasks of a key that are in line at most: those of other keys come in between."""
BATCH = 500
HOLD_BACK_ROWS = 10_000


@dataclass(frozen=True, slots=True)
class Admission:
    """How many tasks were admitted, and in how many seconds the next token comes; None: no bucket is empty."""

    admitted: int
    seconds: float | None


async def look_is_due(connection: Connection, seconds: float) -> bool:
    """Whether there may be something to hold back or to admit, and nobody has looked for so long."""
    return bool(await connection.fetchval(statement("look_due"), seconds))


async def admit(connection: Connection) -> Admission | None:
    """Admit what there is room for, in a transaction of its own; None when somebody else is at it.

    Whoever is told None tries again: the other one may have looked before our news came. So does whoever admitted
    something, until there is nothing more.
    """
    async with connection.transaction():
        if not await connection.fetchval(statement("take_turn")):
            return None
        [row] = await connection.fetch(statement("admit"), WINDOW, BATCH)
        return Admission(row["admitted"], row["seconds"])


async def hold_back(connection: Connection) -> bool:
    """Hold back what must wait by the limits as they are now, in its own transaction; False: there is more to do."""
    async with connection.transaction():
        if not await connection.fetchval(statement("take_turn")):
            return False
        return (
            int(await connection.fetchval(statement("hold_back"), HOLD_BACK_ROWS)) < HOLD_BACK_ROWS
        )
