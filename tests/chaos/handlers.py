"""What the tasks of a chaos run do. To the worker it is an installed package, as a user's own handlers are.

Every run notes its start and its end in a file of its process, outside of any transaction, and on a clock that all
processes of the machine share: so that runs that overlap are seen, whatever the database knows of them.
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

NOTES = "CHAOS_NOTES"
"""The variable that names this process's file."""
STALLED, PULSE_SECONDS, STALLED_SECONDS = "stalled", 0.05, 0.4
INSERT_EFFECT = "INSERT INTO effects (task_id, fence, worker_id) VALUES ($1, $2, $3)"
MODULE = "tests.chaos.handlers"


def write_package(folder: Path) -> None:
    """Make what an installer leaves in a folder: with it in PYTHONPATH the handlers are found."""
    info = folder / "chaos_handlers-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: chaos-handlers\nVersion: 1\n")
    points = "\n".join(f"{name} = {MODULE}:{name}" for name in HANDLERS)
    (info / "entry_points.txt").write_text(f"[task_service.handlers]\n{points}\n")


class Notes:
    """This process's file: one line for each start and end, and for each time in which the process stood still."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def run(self, what: str, context: Context) -> None:
        """Note the `start` or `end` of a run, or that it is `alive`."""
        self._write(
            f"{what} {machine_seconds():.6f} {context.task_id} {context.fence} {context.worker_id}\n"
        )

    def watch(self) -> None:
        """From now on note when the process stands still."""
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        last = machine_seconds()
        while True:
            time.sleep(PULSE_SECONDS)
            now = machine_seconds()
            if now - last > STALLED_SECONDS:
                self._write(f"{STALLED} {last:.6f} {now:.6f}\n")
            last = now

    def _write(self, line: str) -> None:
        os.write(self._file, line.encode())


@functools.cache
def notes() -> Notes:
    """The notes of this process, opened with its first run."""
    opened = Notes(os.environ[NOTES])
    opened.watch()
    return opened


def noted(function: Callable[[Context], Awaitable[Any]]) -> Callable[[Context], Awaitable[Any]]:
    """Note when the handler starts and ends."""

    @functools.wraps(function)
    async def run(context: Context) -> Any:
        notes().run("start", context)
        try:
            return await function(context)
        finally:
            notes().run("end", context)

    return run


@handler("quick")
@noted
async def quick(_: Context) -> None:
    """Do nothing."""


@handler("sleep")
@noted
async def sleep(context: Context) -> None:
    """Sleep `payload` seconds."""
    await asyncio.sleep(context.payload)


@handler("thread")
def thread(context: Context) -> None:
    """Sleep `payload` seconds in a thread, and look now and then whether to end."""
    notes().run("start", context)
    try:
        end = time.monotonic() + context.payload
        while time.monotonic() < end and not context.cancelled:
            time.sleep(0.01)
    finally:
        notes().run("end", context)


@handler("isolated", isolated=True)
def isolated(context: Context) -> None:
    """Sleep `payload` seconds in a process of its own. It is killed without a word: what counts is the last note."""
    own = Notes(os.environ[NOTES])
    own.run("start", context)
    end = time.monotonic() + context.payload
    while time.monotonic() < end and not context.cancelled:
        own.run("alive", context)
        time.sleep(0.01)
    own.run("end", context)


@handler("complete")
@noted
async def complete(context: Context) -> None:
    """Sleep `payload` seconds; write an effect and complete in the same commit."""
    await asyncio.sleep(context.payload)
    async with context.transaction() as transaction:
        await transaction.connection.execute(
            INSERT_EFFECT, context.task_id, context.fence, context.worker_id
        )
        await transaction.complete()


@handler("write")
@noted
async def write(context: Context) -> None:
    """Sleep `payload` seconds, write an effect through the transaction, sleep half as long and return."""
    await asyncio.sleep(context.payload)
    async with context.transaction() as transaction:
        await transaction.connection.execute(
            INSERT_EFFECT, context.task_id, context.fence, context.worker_id
        )
    await asyncio.sleep(context.payload / 2)


@handler("fail")
@noted
async def fail(_: Context) -> None:
    """Raise, each time."""
    raise ValueError("as always")


@handler("flaky")
@noted
async def flaky(context: Context) -> None:
    """Raise in the first attempt."""
    if context.attempt == 1:
        raise ValueError("the first attempt")


@handler("retry")
@noted
async def retry(context: Context) -> None:
    """Ask for another attempt in the first one."""
    if context.attempt == 1:
        raise Retry(context.payload)


@handler("snooze")
@noted
async def snooze(context: Context) -> None:
    """Ask to run later, under the first fence."""
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
