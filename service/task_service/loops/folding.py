"""Background loop that folds counter changes into totals, so that statistics stay cheap to read."""

from sqlalchemy.ext.asyncio import AsyncEngine

from task_service.loops.loop import Loop
from task_service.queue.counters import fold
from task_service.store.database import raw


def folding_loop(engine: AsyncEngine, interval_seconds: float) -> Loop:
    """Create the loop. It runs in every API process, so totals stay current without a worker.

    Changes that are not folded yet are counted by every reader.
    """
    statements = engine.execution_options(isolation_level="AUTOCOMMIT")

    async def once() -> None:
        async with statements.connect() as connection:
            await fold(await raw(connection))

    return Loop("folding", once, interval_seconds, waits_first=True)
