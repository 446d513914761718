"""Waking workers without slowing writers.

A NOTIFY takes a lock that every notifying commit shares, so they commit one after the other. Therefore the first
notification of a process and queue in 20 ms goes inside the writer's transaction (it arrives with the commit); later
ones are merged into one that follows outside. Workers also poll, so a lost one costs a second at most.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable

import structlog

log = structlog.get_logger(__name__)

QUEUE_CHANNEL = "task_service_queue"
LIMITS = "*limits"
"""No queue's name: something waits to be admitted (the statements say when)."""
WINDOW_SECONDS = 0.02


class Wakeups:
    """One per process. `notify` sends a NOTIFY for these queues on a connection of its own."""

    def __init__(
        self,
        notify: Callable[[list[str]], Awaitable[None]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._notify = notify
        self._clock = clock
        self._last: dict[str, float] = {}
        self._later: set[str] = set()
        self._trailing: asyncio.Task[None] | None = None

    def inside(self, queues: Iterable[str]) -> list[str]:
        """The queues to wake inside the caller's transaction; the others are woken a moment later."""
        now, first = self._clock(), []
        for queue in set(queues):
            if now - self._last.get(queue, -WINDOW_SECONDS) >= WINDOW_SECONDS:
                self._last[queue] = now
                first.append(queue)
            else:
                self._later.add(queue)
        if self._later and (self._trailing is None or self._trailing.done()):
            self._trailing = asyncio.create_task(self._send_later())
        return sorted(first)

    async def _send_later(self) -> None:
        while self._later:
            await asyncio.sleep(WINDOW_SECONDS)
            queues, self._later = sorted(self._later), set()
            try:
                await self._notify(queues)
            except Exception as error:  # noqa: BLE001 - the poll finds the tasks: a lost wake-up costs a second
                log.warning("wakeup_lost", queues=queues, error=str(error))

    async def close(self) -> None:
        """Send what is still to be sent."""
        if self._trailing is not None:
            await self._trailing
