"""Letting go on who waits for the tasks that end here. Whom this process does not get to, a sweep
finds.
"""

import asyncio
from collections.abc import Iterable
from uuid import UUID

import structlog

from task_service.queue.dependencies import resolve_dependents
from task_service.store.database import Acquire, is_unavailable

RETRY_SECONDS = 0.5
log = structlog.get_logger(__name__)


class Dependents:
    """The loop."""

    def __init__(self, acquire: Acquire) -> None:
        self._acquire = acquire
        self._ended: set[UUID] = set()
        self._arrived = asyncio.Event()

    def add(self, ended: Iterable[UUID]) -> None:
        """Take tasks that others may wait for; never blocks."""
        self._ended.update(ended)
        self._arrived.set()

    async def run(self) -> None:
        """Settle until cancelled."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            try:
                await self.flush()
            except Exception as error:
                log.warning(
                    "dependents_wait", error=repr(error), exc_info=not is_unavailable(error)
                )
                await asyncio.sleep(RETRY_SECONDS)
                self._arrived.set()

    async def flush(self) -> None:
        """Settle what has come so far."""
        ended = self._ended.copy()
        if ended:
            async with self._acquire() as connection:
                await resolve_dependents(connection, ended)
            self._ended -= ended
