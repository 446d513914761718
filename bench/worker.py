"""What a task costs a worker in Python: its own loops, on a connection that answers from memory at
once.

    python -m bench.worker [--tasks 40000] [--rounds 9]

Handlers do nothing. What the driver, the kernel and the server take is not in it: `bench.rivals
--section drain` measures all. The least is a loop on the same connection that runs each task in a
coroutine of its own, with nothing around it. The lines take turns. Prints microseconds of the
processor for a task, median of the rounds, and writes bench/results/worker.json.
"""

import argparse
import asyncio
import contextlib
import contextvars
import gc
import json
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import uvloop
from asyncpg.pgproto import pgproto

from bench.requests import RESULTS
from task_service.domain.ids import new_id
from task_service.domain.outcomes import Outcome, RetryPolicy
from task_service.queue.claims import Claim
from task_service.queue.results import Finished, GivenBack
from task_service.queue.statements import statement
from task_service.server import GARBAGE_EVERY
from task_service.settings import Settings
from task_service.telemetry import metrics
from task_service.worker import runner
from task_service.worker.claimer import BATCH, Claimer
from task_service.worker.context import RunContext
from task_service.worker.handlers import Context, Handler, Handlers
from task_service.worker.reports import Reports
from task_service.worker.runner import EAGER, Runner

WORKER = new_id()
Row = tuple[Any, ...]


async def nothing(_: Context) -> None:
    """The handler."""


class Memory:
    """A connection that has these tasks, and forgets each that is ended."""

    def __init__(self, rows: list[Row]) -> None:
        self._rows, self._at, self.ended = rows, 0, 0

    async def fetch(self, query: str, *given: Any) -> list[Row]:
        """A claim's rows, or an end's."""
        await asyncio.sleep(0)
        if query == statement("finish"):
            self.ended += len(given[1])
        if query != statement("claim"):
            return []
        limit = given[4]
        self._at += limit
        return self._rows[self._at - limit : self._at]

    async def fetchrow(self, *_: Any) -> None:
        """There is no task that must run alone."""

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[Any]:
        """Lend it."""
        yield self


def rows_of(count: int) -> list[Row]:
    """What the driver makes of so many claimed tasks."""
    now = time.time()
    ids = [pgproto.UUID(new_id().bytes) for _ in range(count)]
    return [
        (i, 1, 1, 5, None, "bench", "default", 2, now, 0.005, False, False, None, False, str(n))
        for n, i in enumerate(ids)
    ]  # fmt: skip


def runner_for(reporter: Any, pool: Any) -> Runner:
    """Of one handler that does nothing."""
    handlers = Handlers([Handler("bench", nothing)])
    return Runner(
        handlers,
        lambda claim, worker: RunContext(claim, worker, pool),
        reporter,
        RetryPolicy(),
        3600.0,
    )


async def whole(rows: list[Row]) -> None:
    """Claims, runs, reports."""
    memory, member = Memory(rows), SimpleNamespace(worker_id=WORKER, may_start=lambda: True)
    reports = Reports(memory.acquire)
    reports.is_busy = lambda: True
    running = runner_for(reports, memory)
    settings = Settings(_env_file=None, database_url="postgresql://unused/unused")  # type: ignore[call-arg]
    claimer = Claimer(settings, memory.acquire, member, running, reports)  # type: ignore[arg-type]
    loops = [asyncio.create_task(loop) for loop in (claimer.run(), reports.run())]
    while memory.ended < len(rows):
        await asyncio.sleep(0.0005)
    for loop in loops:
        loop.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await loop


class Nobody:
    """Takes what runs come to, and does nothing with it."""

    def add(self, _worker: Any, _claim: Claim, _end: Finished | GivenBack) -> None:
        """See `Reporter`."""


async def runs(rows: list[Row]) -> None:
    """Runs alone, begun and ended in batches as they come."""
    claims = [Claim(*row) for row in rows[:BATCH]]
    running = runner_for(Nobody(), None)
    for at in range(0, len(rows), BATCH):
        for claim in claims[: len(rows) - at]:
            running.start(claim, WORKER)


async def tasks(rows: list[Row]) -> None:
    """A task of asyncio each, in variables of its own: the least in which a coroutine can be
    awaited for itself.
    """
    loop, variables = asyncio.get_running_loop(), contextvars.copy_context()
    context: Any = None
    for _ in rows:
        asyncio.Task(nothing(context), loop=loop, context=variables.copy(), **EAGER)


async def least(rows: list[Row]) -> None:
    """Claim, run and report with nothing that keeps a worker safe, counts, or tells how a run
    ended.
    """
    memory, loop = Memory(rows), asyncio.get_running_loop()
    ended: list[tuple[Any, int]] = []

    async def drive(task: Any, fence: int, payload: str) -> None:
        json.loads(payload)
        await nothing(None)  # type: ignore[arg-type]
        ended.append((task, fence))

    while memory.ended < len(rows):
        for row in await memory.fetch(statement("claim"), *[None] * 4, BATCH):
            asyncio.Task(drive(row[0], row[1], row[-1]), loop=loop, **EAGER)
        await asyncio.sleep(0)  # without eager tasks, as on Python 3.11, they run now
        ids, fences = zip(*sorted(ended), strict=True)
        await memory.fetch(statement("finish"), WORKER, ids, fences, ["completed"] * len(ended))
        ended.clear()


def at_once(running: Runner, claim: Claim, worker: Any) -> None:
    """Instead of `Runner.start`: the handler has ended."""
    running.reporter.add(worker, claim, Finished(claim.task_id, claim.fence, Outcome.COMPLETED))


class Bare:
    """A context that knows nothing."""

    completed = lost = False

    def __init__(self, *_: Any) -> None:
        """As a context is made."""

    def end(self) -> None:
        """As a context is told."""


def without(owner: object, name: str, instead: object) -> Callable[[list[Row]], Awaitable[None]]:
    """`whole`, with this for that part of it."""

    async def less(rows: list[Row]) -> None:
        with patch.object(owner, name, instead):
            await whole(rows)

    return less


LINES: dict[str, Callable[[list[Row]], Awaitable[None]]] = {
    "claim, run and report": whole,
    "without metrics": without(
        metrics.QuickHistogram, "labels", lambda *_: SimpleNamespace(observe=lambda _: None)
    ),
    "without containment": without(runner, "Contained", lambda coroutine: coroutine),
    "without contexts": without(sys.modules[__name__], "RunContext", Bare),
    "without runs": without(Runner, "start", at_once),
    "begin and end a run": runs,
    "a task of asyncio": tasks,
    "the least": least,
}


async def microseconds(line: Callable[[list[Row]], Awaitable[None]], rows: list[Row]) -> float:
    """Of the processor, for each of these."""
    began = time.process_time()
    await line(rows)
    return (time.process_time() - began) / len(rows) * 1e6


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(prog="python -m bench.worker")
    parser.add_argument("--tasks", type=int, default=40_000)
    parser.add_argument("--rounds", type=int, default=9)
    given = parser.parse_args()
    rows = rows_of(given.tasks)
    found: dict[str, list[float]] = {}
    gc.freeze()  # as a worker does
    gc.set_threshold(GARBAGE_EVERY)
    for _ in range(given.rounds):
        for name, line in LINES.items():
            found.setdefault(name, []).append(uvloop.run(microseconds(line, rows)))
    for name, values in found.items():
        print(
            f"{name:24} {statistics.median(values):5.2f} us  ({min(values):.2f} to {max(values):.2f})"
        )
    kept = {
        "at": datetime.now(UTC).isoformat(timespec="minutes"),
        "options": vars(given),
        "microseconds": found,
    }
    (RESULTS / "worker.json").write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
