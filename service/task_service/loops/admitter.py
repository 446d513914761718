"""Background loop that admits tasks which wait for a limit.

It runs when requested, when the next token is due, and at every poll. Every worker has one,
whichever queues it serves, and so does every API process without a worker, because the workers may
be scaled to zero until tasks are ready. One process at a time holds the admission lock. Of the
polls of all processes, one per period does any work.
"""

import asyncio
import math
import random
import time

from task_service.loops.loop import Loop
from task_service.queue import limits
from task_service.store.database import Acquire

AGAIN_SECONDS = 0.005
"""Average time until the next attempt when another process holds the admission lock."""


class Admitter:
    """Admission of waiting tasks, for all workers."""

    def __init__(self, acquire: Acquire, poll_seconds: float) -> None:
        self._acquire, self._poll_seconds = acquire, poll_seconds
        self._wake = asyncio.Event()
        self._is_requested = False
        self._poll_at = 0.0
        self._admit_at = math.inf  # when a token is due, or the next attempt
        self._may_block = False  # ready tasks may exceed their limits

    def loop(self) -> Loop:
        """Create the background loop."""
        return Loop("admitter", self.once, self._poll_seconds, self._wake)

    def request(self) -> None:
        """Admit soon: a task started to wait for a limit, or a task under a limit ended."""
        self._is_requested = True
        self._wake.set()

    async def once(self) -> float:
        """Poll if it is due, block tasks by their limits, and admit.

        Return the seconds until the next call.
        """
        if self._is_requested:
            self._is_requested = False
            self._admit_at = 0.0
        now = time.monotonic()
        async with self._acquire() as connection:
            if now >= self._poll_at:
                self._may_block |= await limits.is_check_due(connection, self._poll_seconds / 2)
                self._poll_at = now + self._poll_seconds
            if self._may_block:
                self._admit_at = 0.0
                self._may_block = not await limits.block_by_limit(connection)
            if now >= self._admit_at:
                self._admit_at = now + self._pause(await limits.admit(connection))
        return max(0.0, min(self._poll_at, self._admit_at) - time.monotonic())

    def _pause(self, result: limits.Admission | None) -> float:
        """Return the seconds until the next admission, infinite if it waits for a request."""
        if result is None or self._may_block:
            # The random factor spreads the processes that compete for the lock.
            return AGAIN_SECONDS * random.uniform(0.5, 1.5)  # noqa: S311
        if result.admitted:
            return 0.0
        return math.inf if result.seconds is None else max(result.seconds, AGAIN_SECONDS)
