"""One chaos run: tasks are created while faults are done; when all is quiet, the database is asked what is broken."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg

from task_service.clocks import machine_seconds
from tests.chaos import plan, tasks
from tests.chaos.checks import find_broken
from tests.chaos.evidence import END_SCHEDULE, Done, Process, load
from tests.chaos.faults import Faults
from tests.chaos.handlers import PULSE_SECONDS, STALLED_SECONDS
from tests.chaos.people import Reader
from tests.chaos.stage import AWAY, Stage, set_stage

BATCH = 100
"""So many tasks are created at once."""
LOOK_SECONDS, STUCK_LOOKS = 0.2, 300
FIGURES = {
    "attempts": "SELECT concat_ws(' ', outcome, substring(reason FROM '^[a-z_]+$')), count(*) FROM runs GROUP BY 1",
    "overlaps": "SELECT coalesce(cause, 'no cause'), count(*) FROM chaos_overlaps GROUP BY 1",
    "put aside": "SELECT outcome, count(*) FROM runs WHERE error LIKE 'Put aside:%' GROUP BY 1",
    "stalls of the machine": "SELECT 'machine', count(*) FROM chaos_faults WHERE kind = 'machine'",
}
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Size:
    """How much there is of a run: faults and tasks, the mean pause between two faults, and their kinds."""

    faults: int
    tasks: int
    pause_seconds: float
    kinds: Sequence[str] = tuple(plan.KINDS)


@dataclass(frozen=True, slots=True)
class Report:
    """What came of a run: figures by name and kind, and everything that is broken (see `checks.CHECKS`)."""

    seed: int
    size: Size
    seconds: float
    figures: dict[str, Counter[str]]
    broken: dict[str, list[Any]]


async def run(seed: int, size: Size, folder: Path, say: Say = print) -> Report:
    """Run it; `folder`, which is empty, keeps the processes' notes and logs."""
    began = time.monotonic()
    say(f"seed {seed}: {size.faults} faults over {size.tasks:,} tasks")
    async with set_stage(folder) as stage:
        faults = Faults(stage)
        watch = asyncio.create_task(_watch(stage, faults.done))
        reader = Reader(stage)
        reading = asyncio.create_task(reader.run())
        planned = plan.draw(seed, size.faults, size.pause_seconds, size.kinds)
        batches = _batches(seed, size.tasks)
        step = sum(fault.pause_seconds for fault in planned) / len(batches)
        await asyncio.gather(_do_all(faults, planned, say), _create_all(stage, batches, step))
        say(f"{time.monotonic() - began:7.1f} s  all faults are over")
        await stage.ask(END_SCHEDULE)
        await _drain(stage, say)
        await reader.finish(reading)
        watch.cancel()
        await asyncio.gather(*(stage.end_worker(seat) for seat in stage.seats))
        stage.kill_api()
        connection = await stage.connect()
        processes = [
            Process(x.number, x.seat, x.ended or 0.0, stage.notes_of(x.number)) for x in stage.lives
        ]
        await load(connection, size.tasks, processes, faults.done)
        broken: dict[str, list[Any]] = {**await find_broken(connection)}
        figures = {"faults": Counter(fault.kind for fault in planned)}
        for name, query in FIGURES.items():
            figures[name] = Counter(dict(map(tuple, await connection.fetch(query))))
        await connection.close()
        if stage.troubles:
            broken["what was seen beside the database"] = stage.troubles
    return Report(seed, size, time.monotonic() - began, figures, broken)


def _batches(seed: int, count: int) -> list[list[tasks.Draft]]:
    """All tasks, as many at a time as are created at once."""
    return [
        tasks.draw(seed, first, min(BATCH, count - first + 1))
        for first in range(1, count + 1, BATCH)
    ]


async def _do_all(faults: Faults, planned: list[plan.Fault], say: Say) -> None:
    """Begin each fault in its time; return when all have ended."""
    began = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for fault in planned:
            await asyncio.sleep(fault.pause_seconds)
            say(f"{time.monotonic() - began:7.1f} s  {fault}")
            group.create_task(faults.do(fault))


async def _create_all(stage: Stage, batches: list[list[tasks.Draft]], pause_seconds: float) -> None:
    """Create the batches in steady steps, over HTTP and directly by turns; what was held up is made up for."""
    began = time.monotonic()

    async def feed(first: int) -> None:
        for number in range(first, len(batches), 2):
            await asyncio.sleep(began + number * pause_seconds - time.monotonic())
            await tasks.create(stage, batches[number], over_http=first == 0)

    await asyncio.gather(feed(0), feed(1))


async def _drain(stage: Stage, say: Say) -> None:
    """Wait until the queue is empty, or nothing has moved in it for a minute, counted in looks."""
    last, looks = -1, 0
    while last != 0 and looks < STUCK_LOOKS:
        [[left]] = await stage.ask("SELECT count(*) FROM queue")
        last, looks = left, looks + 1 if left == last else 0
        await asyncio.sleep(LOOK_SECONDS)
    say(f"{last} tasks are left in the queue")


async def _watch(stage: Stage, done: list[Done]) -> None:
    """Note when the server took so long for a write, or we for anything, that a heartbeat would have failed."""
    connection: asyncpg.Connection | None = None
    while True:
        began = machine_seconds()
        try:
            connection = connection or await stage.connect()
            await connection.execute("UPDATE disk SET full_tables = full_tables")
        except AWAY:
            connection = None
        await asyncio.sleep(PULSE_SECONDS)
        if machine_seconds() - began > STALLED_SECONDS:
            done.append(Done("machine", None, began, machine_seconds()))
