"""The loop that admits tasks which wait for a limit: when woken, when a token is due, and at every poll.

Every worker has one, whichever queues it serves; one at a time gets the turn.
"""

import asyncio
import contextlib
import random
import time

import asyncpg
import structlog

from task_service.queue import limits
from task_service.store.database import is_unavailable

AGAIN_SECONDS = 0.005
"""Somebody else has the turn: about so long until we try again."""
log = structlog.get_logger(__name__)


class Admitter:
    """Admits for all workers. `wake` is set when something came that waits for a limit, or a task under one ended."""

    def __init__(self, pool: asyncpg.Pool, poll_seconds: float) -> None:
        self._pool, self._poll_seconds = pool, poll_seconds
        self.wake = asyncio.Event()
        self._poll_at = 0.0

    async def run(self) -> None:
        """Admit until cancelled; a database that is away is tried again at the next poll."""
        while True:
            self.wake.clear()
            try:
                pause = await self._once()
            except Exception as error:
                log.warning("admission_failed", error=repr(error), exc_info=not is_unavailable(error))
                pause = self._poll_seconds
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.wake.wait(), pause)

    async def _once(self) -> float:
        """Admit once, and at a poll hold back first; return in how many seconds to look again."""
        async with self._pool.acquire() as connection:
            if time.monotonic() >= self._poll_at:
                used = await limits.are_used(connection)
                if used and not await limits.hold_back(connection):
                    return self._soon()
                self._poll_at = time.monotonic() + self._poll_seconds
                if not used:
                    return self._poll_seconds
            done = await limits.admit(connection)
        if done is None:
            return self._soon()
        if done.admitted:
            return 0.0
        return self._poll_seconds if done.seconds is None else min(max(done.seconds, AGAIN_SECONDS), self._poll_seconds)

    def _soon(self) -> float:
        return AGAIN_SECONDS * random.uniform(0.5, 1.5)  # noqa: S311 - spreads those who wait for the turn
