"""One chaos run: tasks are created while faults are injected; then the database is checked."""

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
from tests.chaos.cache_reader import CacheReader
from tests.chaos.checks import find_broken
from tests.chaos.evidence import END_SCHEDULE, InjectedFault, Process, load
from tests.chaos.faults import Faults
from tests.chaos.handlers import PULSE_SECONDS, STALLED_SECONDS
from tests.chaos.system import CONNECTION_ERRORS, System, running_system

BATCH = 100
"""Number of tasks that are created in one request or transaction."""
POLL_SECONDS, STUCK_POLLS = 0.2, 300
FIGURES = {
    "attempts": (
        "SELECT concat_ws(' ', outcome, substring(reason FROM '^[a-z_]+$')), count(*) "
        "FROM runs GROUP BY 1"
    ),
    "overlaps": "SELECT coalesce(cause, 'no cause'), count(*) FROM chaos_overlaps GROUP BY 1",
    "suspected tasks": (
        "SELECT outcome, count(*) FROM runs WHERE error LIKE 'Put aside:%' GROUP BY 1"
    ),
    "stalls of the machine": "SELECT 'machine', count(*) FROM chaos_faults WHERE kind = 'machine'",
}
Print = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Size:
    """Size of a run: numbers of faults and tasks, mean pause between faults, and their kinds."""

    faults: int
    tasks: int
    pause_seconds: float
    kinds: Sequence[str] = tuple(plan.KINDS)


@dataclass(frozen=True, slots=True)
class Report:
    """Result of a run: figures by name and kind, and violations (see `checks.CHECKS`)."""

    seed: int
    size: Size
    seconds: float
    figures: dict[str, Counter[str]]
    broken: dict[str, list[Any]]


async def run(seed: int, size: Size, folder: Path, report: Print = print) -> Report:
    """Run the chaos test; the empty `folder` keeps the events and logs of the processes."""
    began = time.monotonic()
    report(f"seed {seed}: {size.faults} faults over {size.tasks:,} tasks")
    async with running_system(folder) as system:
        faults = Faults(system)
        watch = asyncio.create_task(_watch(system, faults.injected))
        reader = CacheReader(system)
        reading = asyncio.create_task(reader.run())
        planned = plan.draw(seed, size.faults, size.pause_seconds, size.kinds)
        batches = _batches(seed, size.tasks)
        step = sum(fault.pause_seconds for fault in planned) / len(batches)
        await asyncio.gather(
            _inject_all(faults, planned, report), _create_all(system, batches, step)
        )
        report(f"{time.monotonic() - began:7.1f} s  all faults have ended")
        await system.query(END_SCHEDULE)
        await _drain(system, report)
        await reader.finish(reading)
        watch.cancel()
        await asyncio.gather(*(system.stop_worker(seat) for seat in system.seats))
        system.kill_api()
        connection = await system.connect()
        processes = [
            Process(w.number, w.seat, w.ended or 0.0, system.events_file(w.number))
            for w in system.workers
        ]
        await load(connection, size.tasks, processes, faults.injected)
        broken: dict[str, list[Any]] = {**await find_broken(connection)}
        figures = {"faults": Counter(fault.kind for fault in planned)}
        for name, query in FIGURES.items():
            figures[name] = Counter(dict(map(tuple, await connection.fetch(query))))
        await connection.close()
        if system.problems:
            broken["problems outside the database"] = system.problems
    return Report(seed, size, time.monotonic() - began, figures, broken)


def _batches(seed: int, count: int) -> list[list[tasks.PlannedTask]]:
    """Return all tasks in batches."""
    return [
        tasks.draw(seed, first, min(BATCH, count - first + 1))
        for first in range(1, count + 1, BATCH)
    ]


async def _inject_all(faults: Faults, planned: list[plan.Fault], report: Print) -> None:
    """Start each fault at its time, and wait until all have ended."""
    began = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for fault in planned:
            await asyncio.sleep(fault.pause_seconds)
            report(f"{time.monotonic() - began:7.1f} s  {fault}")
            group.create_task(faults.inject(fault))


async def _create_all(
    system: System, batches: list[list[tasks.PlannedTask]], pause_seconds: float
) -> None:
    """Create the batches at a constant rate, alternately over HTTP and directly."""
    began = time.monotonic()

    async def create_every_second_batch(first: int) -> None:
        for number in range(first, len(batches), 2):
            await asyncio.sleep(began + number * pause_seconds - time.monotonic())
            await tasks.create(system, batches[number], over_http=first == 0)

    await asyncio.gather(create_every_second_batch(0), create_every_second_batch(1))


async def _drain(system: System, report: Print) -> None:
    """Wait until the queue is empty or has not changed for a minute of polls."""
    last, polls = -1, 0
    while last != 0 and polls < STUCK_POLLS:
        [[left]] = await system.query("SELECT count(*) FROM queue")
        last, polls = left, polls + 1 if left == last else 0
        await asyncio.sleep(POLL_SECONDS)
    report(f"{last} tasks remain in the queue")


async def _watch(system: System, injected: list[InjectedFault]) -> None:
    """Record times in which the server or this process was too slow for a heartbeat."""
    connection: asyncpg.Connection | None = None
    while True:
        began = machine_seconds()
        try:
            connection = connection or await system.connect()
            await connection.execute("UPDATE disk SET full_tables = full_tables")
        except CONNECTION_ERRORS:
            connection = None
        await asyncio.sleep(PULSE_SECONDS)
        if machine_seconds() - began > STALLED_SECONDS:
            injected.append(InjectedFault("machine", None, began, machine_seconds()))
