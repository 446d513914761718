"""Functions that block, compute, and react to cancellation and time limits."""

import asyncio
import contextlib
import ctypes
import itertools
import logging
import os
import time
from pathlib import Path

from task_service.worker import Context

from .common import LONG_SECONDS, write_file


def block(_: Context) -> None:
    time.sleep(LONG_SECONDS)


async def block_async(_: Context) -> None:
    time.sleep(LONG_SECONDS)  # noqa: ASYNC251 - blocks the event loop on purpose


async def spin_async(_: Context) -> None:
    while True:
        pass


async def block_in_task(context: Context) -> None:
    await asyncio.gather(block_async(context), asyncio.sleep(0))


async def compute_async(context: Context) -> None:
    """Compute until the file `go` exists, then for a moment of CPU time."""
    logging.getLogger("sample").warning("computing")
    while not os.path.exists(context.payload["go"]):  # noqa: ASYNC240, PTH110 - blocks on purpose
        pass
    _compute(0.3)


def _compute(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


async def yield_sometimes_async(context: Context) -> None:
    """Compute for `seconds`, and yield to the event loop regularly."""
    end = time.monotonic() + context.payload["seconds"]
    while time.monotonic() < end:
        _compute(0.01)
        await asyncio.sleep(0)


async def swallow_exceptions_async(_: Context) -> None:
    """Block, ignoring any two exceptions and then every `Exception`."""
    for kind in itertools.chain([BaseException] * 2, itertools.repeat(Exception)):
        with contextlib.suppress(kind):
            time.sleep(LONG_SECONDS)  # noqa: ASYNC251


async def deadlock_async(_: Context) -> None:
    """Lock a C mutex twice; no signal interrupts that."""
    lock, library = ctypes.create_string_buffer(128), ctypes.CDLL(None)
    library.pthread_mutex_lock(lock)
    library.pthread_mutex_lock(lock)


async def block_in_executor(_: Context) -> None:
    await asyncio.to_thread(time.sleep, LONG_SECONDS)


def wait_for_cancellation(context: Context) -> str:
    """Write to `file` that it runs, wait for cancellation, and write that too."""
    write_file(context, "runs")
    while not context.cancelled:
        time.sleep(0.01)
    write_file(context, "cancelled True")
    return "done anyway"


async def wait_for_cancellation_async(context: Context) -> None:
    write_file(context, "runs")
    try:
        await asyncio.Event().wait()
    finally:
        write_file(context, f"cancelled {context.cancelled}")


def extend(context: Context) -> str:
    """Extend the time limit by `seconds`, then sleep for `then` seconds."""
    context.wait(context.extend(context.payload["seconds"]))
    time.sleep(context.payload["then"])
    return "in time"


async def extend_async(context: Context) -> str:
    await context.extend(context.payload["seconds"])
    await asyncio.sleep(context.payload["then"])
    return "in time"


def extend_and_continue(context: Context) -> None:
    """Write the process id, wait for the file `go`, request more time, and continue anyway."""
    write_file(context, str(os.getpid()))
    while not Path(context.payload["go"]).exists():
        time.sleep(0.01)
    with contextlib.suppress(Exception):
        context.wait(context.extend(60))
    time.sleep(LONG_SECONDS)


def open_transaction(context: Context) -> None:
    context.transaction()
