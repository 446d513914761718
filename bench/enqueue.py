"""What one task entered by itself costs: the way to the server and back, the commit, and each part
of our own work.

    python -m bench.enqueue [--tasks 2000] [--rounds 5]

One connection of asyncpg, one task after the other, each committed, on a durable server; the lines
take turns, those without something each in a database of their own. One small row in a table with
only a key is the least that any queue does. The last two lines are of several connections at once,
with the notification that makes commits queue and without. Prints microseconds a task, median of
the rounds, and writes bench/results/enqueue.json.
"""

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import asyncpg
import uvloop

from bench.requests import RESULTS
from bench.rivals.adaptors.ours import prepare
from bench.rivals.servers import OPTIONS
from task_service.embedded import EmbeddedPostgres
from task_service.enqueue import enqueue_async

ONE_ROW = "INSERT INTO one_row (number) VALUES ($1)"
INDEXES = """
    DO $$ DECLARE name text; BEGIN
        FOR name IN SELECT indexrelid::regclass::text FROM pg_index
            WHERE indrelid IN ('tasks'::regclass, 'task_history'::regclass) AND NOT indisunique
        LOOP EXECUTE 'DROP INDEX ' || name; END LOOP;
    END $$
"""
CHECKS = """
    DO $$ DECLARE name text; place text; BEGIN
        FOR name, place IN SELECT conname, conrelid::regclass::text FROM pg_constraint
            WHERE contype = 'c' AND conrelid IN ('tasks'::regclass, 'queue'::regclass)
        LOOP EXECUTE 'ALTER TABLE ' || place || ' DROP CONSTRAINT ' || name; END LOOP;
    END $$
"""
WITHOUT = {
    "the counters": "ALTER TABLE tasks DISABLE TRIGGER USER; ALTER TABLE queue DISABLE TRIGGER USER",
    "the indexes of lists, search and history": INDEXES,
    "the checks of columns": CHECKS,
}
"""What the product does for one task that others do not, and the statement that takes it away."""
AT_ONCE = 8
"""Connections."""
Step = Callable[[asyncpg.Connection, int], Awaitable[object]]


async def nothing(connection: asyncpg.Connection, number: int) -> None:
    """The way to the server and back."""
    await connection.fetchval("SELECT $1::integer", number)


async def one_row(connection: asyncpg.Connection, number: int) -> None:
    """One small row."""
    await connection.execute(ONE_ROW, number)


async def enter(connection: asyncpg.Connection, number: int, *, wake: bool = True) -> None:
    """One task, as an application enters it; without `wake` it is left to the workers' polls."""
    await enqueue_async(connection, "bench", number, title="a task", queue="bench", wake=wake)


async def microseconds(connection: asyncpg.Connection, step: Step, count: int) -> float:
    """Of each of so many, one after the other."""
    began = time.perf_counter()
    for number in range(count):
        await step(connection, number)
    return (time.perf_counter() - began) / count * 1e6


async def at_once(connections: Sequence[asyncpg.Connection], step: Step, count: int) -> float:
    """Microseconds of each of so many in all, some on each connection at the same time."""
    each = max(1, count // len(connections))
    began = time.perf_counter()
    await asyncio.gather(*(microseconds(connection, step, each) for connection in connections))
    return (time.perf_counter() - began) / (each * len(connections)) * 1e6


async def measure(server: EmbeddedPostgres, count: int, rounds: int) -> dict[str, list[float]]:
    """All lines, in turns."""
    own = await asyncpg.connect(server.url())
    await own.execute("CREATE DATABASE whole")
    await prepare(server.url("whole"))
    places: dict[str, asyncpg.Connection] = {}
    less = {"": "SELECT", **WITHOUT, "all of these": ";".join(WITHOUT.values())}
    for number, (name, statement) in enumerate(less.items()):
        await own.execute(f"CREATE DATABASE place{number} TEMPLATE whole")
        places[name] = await asyncpg.connect(server.url(f"place{number}"))
        await places[name].execute(statement)
    whole = places.pop("")
    await whole.execute(
        "CREATE TABLE one_row (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), number integer)"
    )
    several = [await asyncpg.connect(server.url("whole")) for _ in range(AT_ONCE)]
    found: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name, step in {
            "a statement that does nothing": nothing,
            "one row": one_row,
            "a task": enter,
        }.items():
            found.setdefault(name, []).append(await microseconds(whole, step, count))
        async with whole.transaction():
            found.setdefault("a task, its commit not counted", []).append(
                await microseconds(whole, enter, count)
            )
        for name, place in places.items():
            found.setdefault(f"a task without {name}", []).append(
                await microseconds(place, enter, count)
            )
        for wake in (True, False):
            line = f"a task, {AT_ONCE} connections at once{'' if wake else ', wake=False'}"
            found.setdefault(line, []).append(
                await at_once(several, partial(enter, wake=wake), count)
            )
    for connection in (own, whole, *places.values(), *several):
        await connection.close()
    return found


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(prog="python -m bench.enqueue")
    parser.add_argument("--tasks", type=int, default=2_000)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="task-service-bench-", dir="/var/tmp") as folder,
        EmbeddedPostgres(Path(folder), options=OPTIONS) as server,
    ):
        found = uvloop.run(measure(server, given.tasks, given.rounds))
    for name, values in found.items():
        middle = statistics.median(values)
        print(
            f"{name:58} {middle:6.0f} us  {1e6 / middle:8,.0f}/s  ({min(values):.0f} to {max(values):.0f})"
        )
    kept = {
        "at": datetime.now(UTC).isoformat(timespec="minutes"),
        "options": vars(given),
        "microseconds": found,
    }
    (RESULTS / "enqueue.json").write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
