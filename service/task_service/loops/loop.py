"""What goes on beside the requests of an API process: loops that are started with it and stopped before its end."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol

import structlog

log = structlog.get_logger(__name__)


class Background(Protocol):
    """Something that runs beside the requests. Neither call waits for a server that may be away."""

    async def start(self) -> None:
        """Begin; returns at once."""
        ...

    async def stop(self) -> None:
        """End; may be called without a start."""
        ...


class Loop:
    """A coroutine function that goes on until it is cancelled."""

    def __init__(self, run: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._run = run
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin; returns at once."""
        self._task = asyncio.create_task(
            self._run(), name=getattr(self._run, "__qualname__", "loop")
        )

    async def stop(self) -> None:
        """End. What was not committed is rolled back, and done by another instance."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task


async def start(running: Sequence[Background]) -> None:
    """Start them in their order."""
    for one in running:
        await one.start()


async def stop(running: Sequence[Background]) -> None:
    """Stop them, the last one first. One that fails to stop is logged and does not keep the others running."""
    for one in reversed(running):
        try:
            await one.stop()
        except Exception:
            log.exception("background_not_stopped", background=type(one).__name__)


@asynccontextmanager
async def running(of: Sequence[Background]) -> AsyncIterator[None]:
    """Started inside, stopped at the end."""
    await start(of)
    try:
        yield
    finally:
        await stop(of)
