"""Functions that return values, raise exceptions and report progress."""

import asyncio
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from task_service.worker import Cancel, Context, Discard, Retry, Snooze

from .common import LONG_SECONDS


def describe(context: Context) -> Any:
    """Return the fields of the context and facts about this process."""
    fields = {
        name: getattr(context, name)
        for name in ("attempt", "max_attempts", "fence", "queue", "payload", "cancelled")
    }
    return fields | {
        "task_id": str(context.task_id),
        "worker_id": str(context.worker_id),
        "pid": os.getpid(),
        "folder": str(Path.cwd()),
        "is_first_oom_victim": Path("/proc/self/oom_score_adj").read_text().strip() == "1000",
    }


async def describe_async(context: Context) -> Any:
    return describe(context)


def report_progress(context: Context) -> None:
    """Report each of `parts` as progress, then wait for cancellation."""
    for part in context.payload["parts"]:
        context.progress(part, f"part {part}")
    while not context.cancelled:
        time.sleep(0.01)
    raise Cancel


async def report_progress_async(context: Context) -> None:
    """Report each of `parts` as progress, then sleep until cancelled."""
    for part in context.payload["parts"]:
        context.progress(part, f"part {part}")
    await asyncio.sleep(LONG_SECONDS)


async def do_nothing(_: Context) -> None:
    """Complete without a result."""


class UnreadableError(Exception):
    def __str__(self) -> str:
        raise SystemExit("no text")


class UnpicklableError(Exception):
    def __init__(self, text: str) -> None:
        super().__init__(text, threading.Lock())


def fail(context: Context) -> None:
    """Raise the exception named `how`, under the first fence only."""
    errors: dict[str, Callable[[], BaseException]] = {
        "exit": lambda: SystemExit(3),
        "interrupt": KeyboardInterrupt,
        "base": lambda: BaseException("odd"),
        "unreadable": UnreadableError,
        "unpicklable": lambda: UnpicklableError("with a lock"),
        "long": lambda: ValueError("first" + "x" * 100_000 + "last"),
        "surrogate": lambda: ValueError("a \ud800 and a \x00"),
        "snooze": lambda: Snooze(0, "later"),
        "retry": lambda: Retry(0),
        "cancel": lambda: Cancel("not wanted"),
        "discard": lambda: Discard("never"),
        "cancelled": asyncio.CancelledError,
    }
    if context.fence == 1:
        raise errors[context.payload["how"]]()


async def fail_async(context: Context) -> None:
    fail(context)


async def fail_in_task(context: Context) -> None:
    """Raise the exception in a separate asyncio task."""
    await asyncio.gather(fail_async(context), asyncio.sleep(0))


def return_value(context: Context) -> Any:
    """Return the value named `what`."""
    cycle: list[Any] = []
    cycle.append(cycle)
    values: dict[str, Callable[[], Any]] = {
        "set": lambda: {1, 2},
        "nan": lambda: {"share": [float("nan")]},
        "cycle": lambda: cycle,
        "bytes": lambda: b"bytes",
        "surrogate": lambda: "\ud800",
        "huge": lambda: "x" * 100_000_000,
        "many": lambda: list(range(10_000_000)),
    }
    return values[context.payload["what"]]()


async def return_value_async(context: Context) -> Any:
    return return_value(context)
