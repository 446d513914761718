"""One at a time: of several requests of this process that would do the same, the others wait for the first."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from task_service.domain.errors import UnavailableError

T = TypeVar("T")


@dataclass(slots=True)
class _Flight:
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    aboard: int = 0
    result: Any = None


class Flights:
    """What the first of them finds out, those that wait are told; when it fails, the next one tries."""

    def __init__(self) -> None:
        self._flights: dict[Hashable, _Flight] = {}

    async def share(
        self, key: Hashable, work: Callable[[], Awaitable[T]], wait_seconds: float
    ) -> tuple[T, bool]:
        """The result of `work`, and whether it is somebody else's.

        Waiting takes no connection. Raises what `work` raises; UnavailableError when the turn does not come in time.
        """
        flight = self._flights.setdefault(key, _Flight())
        flight.aboard += 1
        try:
            try:
                async with asyncio.timeout(wait_seconds):
                    await flight.turn.acquire()
            except TimeoutError:
                raise UnavailableError(
                    "The same request is still being answered; try again."
                ) from None
            try:
                if flight.result is not None:
                    return flight.result, True
                flight.result = await work()
                return flight.result, False
            finally:
                flight.turn.release()
        finally:
            flight.aboard -= 1
            if not flight.aboard:
                del self._flights[key]
