"""Waiting for something to become true, with a bound and a useful message: no test sleeps for a guess."""

import asyncio
import subprocess
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")
START_SECONDS = 10.0


async def eventually(what: str, probe: Callable[[], Awaitable[T]], seconds: float = 15.0) -> T:
    """Call `probe` until it returns something true, and return that; else AssertionError with the last answer."""
    deadline = time.monotonic() + seconds
    while True:
        answer = await probe()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(
                f"{what} did not happen within {seconds} s; last answer: {answer!r}"
            )
        await asyncio.sleep(0.01)


def until_started(process: subprocess.Popen[bytes], name: str, answers: Callable[[], bool]) -> None:
    """Wait until a server that was just started answers; RuntimeError when it has ended or is late."""
    deadline = time.monotonic() + START_SECONDS
    while not answers():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{name} did not start")
        time.sleep(0.01)
