"""Background loop that folds counter changes into totals, so that statistics stay cheap to read."""

import asyncio
import contextlib

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from task_service.queue.counters import fold
from task_service.store.database import is_unavailable, raw

log = structlog.get_logger(__name__)


class Folding:
    """Folds changed numbers every `seconds`, also where no worker runs. Starts and stops with the process."""

    def __init__(self, engine: AsyncEngine, seconds: float) -> None:
        self._engine, self._seconds = engine, seconds
        self._loop: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin; returns at once."""
        self._loop = asyncio.create_task(self._run(), name="folding")

    async def stop(self) -> None:
        """End; what is not folded yet is counted all the same."""
        if self._loop is not None:
            self._loop.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._loop

    async def _run(self) -> None:
        statements = self._engine.execution_options(isolation_level="AUTOCOMMIT")
        while True:
            await asyncio.sleep(self._seconds)
            try:
                async with statements.connect() as connection:
                    await fold(await raw(connection))
            except Exception as error:
                log.warning("folding_failed", error=repr(error), exc_info=not is_unavailable(error))
