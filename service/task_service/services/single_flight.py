"""Single flight: of concurrent calls with the same key, one does the work and the others receive
its result.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from task_service.domain.errors import UnavailableError

T = TypeVar("T")


@dataclass(slots=True)
class _Call:
    """A call in progress: its lock, how many callers use it, and its result."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    callers: int = 0
    result: Any = None


class SingleFlight:
    """Calls in progress in this process, by key. When a call fails, the next waiting caller tries."""

    def __init__(self) -> None:
        self._calls: dict[Hashable, _Call] = {}

    async def run(
        self, key: Hashable, work: Callable[[], Awaitable[T]], wait_seconds: float
    ) -> tuple[T, bool]:
        """Return the result of `work`, and whether another caller produced it.

        Raises what `work` raises; UnavailableError after waiting for `wait_seconds`. Waiting holds
        no database connection.
        """
        call = self._calls.setdefault(key, _Call())
        call.callers += 1
        try:
            try:
                async with asyncio.timeout(wait_seconds):
                    await call.lock.acquire()
            except TimeoutError:
                raise UnavailableError(
                    "The same request is still being answered; try again."
                ) from None
            try:
                if call.result is not None:
                    return call.result, True
                call.result = await work()
                return call.result, False
            finally:
                call.lock.release()
        finally:
            call.callers -= 1
            if not call.callers:
                del self._calls[key]
