"""Notifications that wake workers without slowing down writers.

Each commit with a NOTIFY takes the same lock, so these commits run one after the other. Therefore a
process sends only the first notification per queue and 20 ms inside the writer's transaction, where
it arrives with the commit. Later ones are merged into one notification outside the transaction.
Workers also poll, so a lost notification delays a task by a second at most.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable

import structlog

log = structlog.get_logger(__name__)

QUEUE_CHANNEL = "task_service_queue"
LIMITS = "*limits"
"""Payload that asks for an admission instead of naming a queue. The statements send it."""
WINDOW_SECONDS = 0.02


class Wakeups:
    """Notifications of one process. `notify` sends a NOTIFY for queues on its own connection."""

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
        """Return the queues to notify inside the caller's transaction; others follow later."""
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
            except Exception as error:  # noqa: BLE001 - workers also poll
                log.warning("wakeup_lost", queues=queues, error=str(error))

    async def close(self) -> None:
        """Wait until the pending notifications are sent."""
        if self._trailing is not None:
            await self._trailing
