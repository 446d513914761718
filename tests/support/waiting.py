"""Waiting for a condition, with a time limit and a useful message, instead of sleeping."""

import asyncio
import subprocess
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")
START_SECONDS = 10.0


async def eventually(
    what: str, probe: Callable[[], Awaitable[T | None]], seconds: float = 15.0
) -> T:
    """Call `probe` until its result is true, and return that result.

    Raises AssertionError with the last result when the time is over.
    """
    deadline = time.monotonic() + seconds
    while True:
        result = await probe()
        if result:
            return result
        if time.monotonic() > deadline:
            raise AssertionError(
                f"{what} did not happen within {seconds} s; last result: {result!r}"
            )
        await asyncio.sleep(0.01)


def wait_until_started(
    process: subprocess.Popen[bytes], name: str, is_ready: Callable[[], bool]
) -> None:
    """Wait until a started server is ready. Raises RuntimeError when it has ended or is late."""
    deadline = time.monotonic() + START_SECONDS
    while not is_ready():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{name} did not start")
        time.sleep(0.01)
