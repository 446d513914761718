"""Background loops: a class that repeats a function, and helpers to start and stop several."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Protocol

import structlog

from task_service.store.database import is_unavailable

log = structlog.get_logger(__name__)


class Background(Protocol):
    """Work that a process does next to its requests. No method waits for an unavailable server."""

    async def start(self) -> None:
        """Start and return at once."""
        ...

    async def stop(self) -> None:
        """Stop. Safe to call without a start."""
        ...


class Loop:
    """Background task that calls `once` again and again until it is stopped.

    `once` returns the seconds until its next call, or None for the interval. An error is
    logged, and the loop continues. `wake` ends the wait early; the loop clears it before each
    call of `once`.
    """

    def __init__(
        self,
        name: str,
        once: Callable[[], Awaitable[float | None]],
        interval_seconds: float,
        wake: asyncio.Event | None = None,
        *,
        retry_seconds: float | None = None,
        waits_first: bool = False,
    ) -> None:
        """Create a loop that is not started.

        `interval_seconds` may be infinite if there is a `wake`. After an error the loop
        waits for the interval or `wake`, or with `retry_seconds` for exactly that time, so
        that new work does not hurry a server that is unavailable. With `waits_first` the
        first call comes after the interval.
        """
        self.name = name
        self._once = once
        self._interval = interval_seconds
        self._wake = wake
        self._retry = retry_seconds
        self._first_pause = interval_seconds if waits_first else 0.0
        self._task: asyncio.Task[None] | None = None

    @property
    def has_ended(self) -> bool:
        """True if the started loop no longer runs."""
        return self._task is not None and self._task.done()

    async def start(self) -> None:
        """Start the loop and return at once. Without effect while it runs."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self.run(), name=self.name)

    async def stop(self) -> None:
        """Cancel the loop and wait for its end. The database rolls back what was not committed."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def run(self) -> None:
        """Repeat until cancelled."""
        pause = self._first_pause
        while True:
            if pause > 0:
                await self._wait(pause)
            if self._wake is not None:
                self._wake.clear()
            try:
                seconds = await self._once()
                pause = self._interval if seconds is None else seconds
            except Exception as error:
                log.warning(
                    "loop_failed",
                    loop=self.name,
                    error=repr(error),
                    exc_info=not is_unavailable(error),
                )
                pause = self._interval
                if self._retry is not None:
                    await asyncio.sleep(self._retry)
                    pause = 0.0

    async def _wait(self, seconds: float) -> None:
        if self._wake is None:
            await asyncio.sleep(seconds)
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), None if seconds == float("inf") else seconds)


async def start_all(background: Sequence[Background]) -> None:
    """Start them in order."""
    for one in background:
        await one.start()


async def stop_all(background: Sequence[Background]) -> None:
    """Stop them in reverse order. An error is logged and does not keep the others running."""
    for one in reversed(background):
        try:
            await one.stop()
        except Exception:
            log.exception("background_not_stopped", background=type(one).__name__)


@asynccontextmanager
async def running(background: Sequence[Background]) -> AsyncIterator[None]:
    """Start them for the body of the `with` statement and stop them afterwards."""
    await start_all(background)
    try:
        yield
    finally:
        await stop_all(background)
