"""The loop that admits tasks which wait for a limit: when woken, when a token is due, and at a poll.

Every worker has one, whichever queues it serves, and every API process without one: workers may be scaled to none until
there is something in line. One at a time gets the turn, and of all their polls one in each period does something.
"""

import asyncio
import contextlib
import math
import random
import time

import structlog

from task_service.queue import limits
from task_service.store.database import Acquire, is_unavailable

AGAIN_SECONDS = 0.005
"""Somebody else has the turn: about so long until we try again."""
log = structlog.get_logger(__name__)


class Admitter:
    """Admits for all workers. `wake` is set when something came that waits for a limit, or a task under one ended."""

    def __init__(self, acquire: Acquire, poll_seconds: float) -> None:
        self._acquire, self._poll_seconds = acquire, poll_seconds
        self.wake = asyncio.Event()
        self._poll_at = 0.0
        self._admit_at = math.inf  # when a token comes, or to try again
        self._behind = False  # there may be something to hold back

    async def run(self) -> None:
        """Admit until cancelled; a database that is away is tried again at the next poll."""
        while True:
            try:
                await self._once()
                pause = min(self._poll_at, self._admit_at) - time.monotonic()
            except Exception as error:
                log.warning(
                    "admission_failed", error=repr(error), exc_info=not is_unavailable(error)
                )
                pause = self._poll_seconds
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.wake.wait(), max(pause, 0.0))

    async def _once(self) -> None:
        """Poll if it is time to, then hold back and admit if there is reason to."""
        if self.wake.is_set():
            self.wake.clear()
            self._admit_at = 0.0
        now = time.monotonic()
        async with self._acquire() as connection:
            if now >= self._poll_at:
                self._behind |= await limits.is_check_due(connection, self._poll_seconds / 2)
                self._poll_at = now + self._poll_seconds
            if self._behind:
                self._admit_at = 0.0
                self._behind = not await limits.block_by_limit(connection)
            if now >= self._admit_at:
                self._admit_at = now + self._wait(await limits.admit(connection))

    def _wait(self, done: limits.Admission | None) -> float:
        """In how many seconds to admit again; infinite: when something happens."""
        if done is None or self._behind:
            return AGAIN_SECONDS * random.uniform(0.5, 1.5)  # noqa: S311 - spreads those who wait for the turn
        if done.admitted:
            return 0.0
        return math.inf if done.seconds is None else max(done.seconds, AGAIN_SECONDS)
