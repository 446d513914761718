"""Handlers of a chaos run, which workers load like an installed package.

Every run writes its start and end to a file of its process, outside any transaction, with the time
of a clock that all processes of the machine share. That detects overlapping runs without the
database.
"""

import asyncio
import functools
import os
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from task_service.clocks import machine_seconds
from task_service.worker import Context, Retry, Snooze, handler

EVENTS = "CHAOS_EVENTS"
"""Environment variable with the path of this process's file."""
STALLED, PULSE_SECONDS, STALLED_SECONDS = "stalled", 0.05, 0.4
INSERT_EFFECT = "INSERT INTO effects (task_id, fence, worker_id) VALUES ($1, $2, $3)"
MODULE = "tests.chaos.handlers"


def write_package(folder: Path) -> None:
    """Write package metadata, so that workers with the folder in PYTHONPATH find the handlers."""
    info = folder / "chaos_handlers-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: chaos-handlers\nVersion: 1\n")
    points = "\n".join(f"{name} = {MODULE}:{name}" for name in HANDLERS)
    (info / "entry_points.txt").write_text(f"[task_service.handlers]\n{points}\n")


class EventFile:
    """File of this process, with one line per start and end of a run and per stall."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def write(self, event: str, context: Context) -> None:
        """Write the `start` or `end` of a run, or that it is `alive`."""
        run = f"{context.task_id} {context.fence} {context.worker_id}"
        self._write_line(f"{event} {machine_seconds():.6f} {run}\n")

    def watch(self) -> None:
        """Start to record stalls of the process."""
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        last = machine_seconds()
        while True:
            time.sleep(PULSE_SECONDS)
            now = machine_seconds()
            if now - last > STALLED_SECONDS:
                self._write_line(f"{STALLED} {last:.6f} {now:.6f}\n")
            last = now

    def _write_line(self, line: str) -> None:
        os.write(self._file, line.encode())


@functools.cache
def event_file() -> EventFile:
    """Return the file of this process, opened by its first run."""
    opened = EventFile(os.environ[EVENTS])
    opened.watch()
    return opened


def recorded(function: Callable[[Context], Awaitable[Any]]) -> Callable[[Context], Awaitable[Any]]:
    """Record the start and end of each run of the handler."""

    @functools.wraps(function)
    async def run(context: Context) -> Any:
        event_file().write("start", context)
        try:
            return await function(context)
        finally:
            event_file().write("end", context)

    return run


@handler("quick")
@recorded
async def quick(_: Context) -> None:
    """Do nothing."""


@handler("sleep")
@recorded
async def sleep(context: Context) -> None:
    """Sleep `payload` seconds."""
    await asyncio.sleep(context.payload)


@handler("thread")
def thread(context: Context) -> None:
    """Sleep `payload` seconds in a thread, and end early when cancelled."""
    event_file().write("start", context)
    try:
        end = time.monotonic() + context.payload
        while time.monotonic() < end and not context.cancelled:
            time.sleep(0.01)
    finally:
        event_file().write("end", context)


@handler("isolated", isolated=True)
def isolated(context: Context) -> None:
    """Sleep `payload` seconds in an own process; when killed, the last `alive` event counts."""
    file = EventFile(os.environ[EVENTS])
    file.write("start", context)
    end = time.monotonic() + context.payload
    while time.monotonic() < end and not context.cancelled:
        file.write("alive", context)
        time.sleep(0.01)
    file.write("end", context)


@handler("complete")
@recorded
async def complete(context: Context) -> None:
    """Sleep `payload` seconds, then write an effect and complete in one transaction."""
    await asyncio.sleep(context.payload)
    async with context.transaction() as transaction:
        await transaction.connection.execute(
            INSERT_EFFECT, context.task_id, context.fence, context.worker_id
        )
        await transaction.complete()


@handler("write")
@recorded
async def write(context: Context) -> None:
    """Sleep `payload` seconds, write an effect in a transaction, sleep half as long and return."""
    await asyncio.sleep(context.payload)
    async with context.transaction() as transaction:
        await transaction.connection.execute(
            INSERT_EFFECT, context.task_id, context.fence, context.worker_id
        )
    await asyncio.sleep(context.payload / 2)


@handler("fail")
@recorded
async def fail(_: Context) -> None:
    """Raise in every attempt."""
    raise ValueError("always fails")


@handler("flaky")
@recorded
async def flaky(context: Context) -> None:
    """Raise in the first attempt."""
    if context.attempt == 1:
        raise ValueError("the first attempt")


@handler("retry")
@recorded
async def retry(context: Context) -> None:
    """Request a retry in the first attempt."""
    if context.attempt == 1:
        raise Retry(context.payload)


@handler("snooze")
@recorded
async def snooze(context: Context) -> None:
    """Snooze under the first fence."""
    if context.fence == 1:
        raise Snooze(context.payload)


HANDLERS = (
    "quick",
    "sleep",
    "thread",
    "isolated",
    "complete",
    "write",
    "fail",
    "flaky",
    "retry",
    "snooze",
)
