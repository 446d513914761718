"""No-op tasks per second of worker processes, against the same statements without our Python, in the same run.

    python -m bench.drain [--tasks 100000] [--rounds 5] [--workers 1 2]

`workers` are real processes (`task-service worker`). `plain` is a psycopg2 script that runs their statements in batches
of 500 on one connection, one after the other, and does nothing else; `overlapped` does so with asyncpg on two
connections, claims beside completions, as a worker does. Rates are by the server's clock, from the first claim to
the last completion. Rounds are interleaved; the server is durable (fsync and synchronous_commit on). Prints a table and
the ratios, and writes bench/results/drain.json.
"""

import argparse
import asyncio
import contextlib
import json
import re
import statistics
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import asyncpg
import psycopg2  # type: ignore[import-untyped]
import uvloop

from bench.requests import LOCAL, RESULTS, started
from task_service.embedded import EmbeddedPostgres, free_port
from task_service.migrations.runner import migrate
from task_service.queue.statements import statement
from task_service.settings import Settings
from task_service.store.database import connect, create_engine
from tests.support.tasks import add_tasks, add_worker

BATCH = 500
START_SECONDS = 60.0
LINE = (["default"], [2], [datetime(2000, 1, 1, tzinfo=UTC)])
RATE = "SELECT count(*) / extract(epoch FROM max(finished_at) - min(claimed_at)) FROM runs"
Rates = dict[str, list[float]]


async def workers(settings: Settings, connection: asyncpg.Connection, count: int, number: int) -> None:
    """Let so many worker processes drain the queue."""
    with contextlib.ExitStack() as stack:
        for _ in range(number):
            environment = {
                "DATABASE_URL": settings.read_database_url(), "RUNTIME_DIR": str(settings.runtime_dir),
                "MANAGEMENT_HOST": LOCAL, "MANAGEMENT_PORT": str(free_port()), "LOG_LEVEL": "WARNING",
            }  # fmt: skip
            stack.enter_context(started([sys.executable, "-m", "task_service.cli", "worker"], environment))
        active = "SELECT count(*) FROM workers WHERE state = 'active'"
        async with asyncio.timeout(START_SECONDS):
            while await connection.fetchval(active) < number:
                await asyncio.sleep(0.05)
        await add_tasks(connection, count)
        while await connection.fetchval("SELECT EXISTS (SELECT FROM queue)"):
            await asyncio.sleep(0.1)


async def plain(settings: Settings, connection: asyncpg.Connection, count: int) -> None:
    """One connection, one statement after the other."""
    await add_tasks(connection, count)
    worker = await add_worker(connection)
    await asyncio.to_thread(_plain, settings.read_database_url(), str(worker), count)


def _plain(url: str, worker: str, count: int) -> None:
    claim, finish = (_numbered(statement(name)) for name in ("claim", "finish"))
    with psycopg2.connect(url) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        cursor.execute(f"PREPARE claim (uuid, text[], smallint[], timestamptz[], integer, boolean) AS {claim}")
        cursor.execute(f"PREPARE finish (uuid, uuid[], bigint[], text[], text[], text[], text[]) AS {finish}")
        done = 0
        while done < count:
            cursor.execute("EXECUTE claim (%s, %s, %s, %s, %s, %s)", (worker, *LINE, BATCH, False))
            rows = sorted((row[0], row[1]) for row in cursor.fetchall())
            ids, fences, none = [r[0] for r in rows], [r[1] for r in rows], [None] * len(rows)
            arguments = (worker, ids, fences, ["completed"] * len(rows), none, none, none)
            cursor.execute("EXECUTE finish (%s, %s::uuid[], %s, %s, %s::text[], %s::text[], %s::text[])", arguments)
            done += len(cursor.fetchall())


def _numbered(sql: str) -> str:
    """A statement without its comments (psycopg2 would read a % in them)."""
    return re.sub(r"--.*", "", sql)


async def overlapped(settings: Settings, connection: asyncpg.Connection, count: int) -> None:
    """Claims on one connection, completions on another one at the same time."""
    await add_tasks(connection, count)
    worker = await add_worker(connection)
    await asyncio.to_thread(uvloop.run, _overlapped(settings, worker, count))


async def _overlapped(settings: Settings, worker: UUID, count: int) -> None:
    batches: asyncio.Queue[list[tuple[UUID, int]]] = asyncio.Queue(2)

    async def claims(connection: asyncpg.Connection) -> None:
        claimed = 0
        while claimed < count:
            rows = await connection.fetch(statement("claim"), worker, *LINE, BATCH, False)
            await batches.put(sorted((row[0], row[1]) for row in rows))
            claimed += len(rows)

    async def completions(connection: asyncpg.Connection) -> None:
        finished = 0
        while finished < count:
            rows = await batches.get()
            ids, fences, none = [r[0] for r in rows], [r[1] for r in rows], [None] * len(rows)
            arguments = (worker, ids, fences, ["completed"] * len(rows), none, none, none)
            finished += len(await connection.fetch(statement("finish"), *arguments))

    first, second = await connect(settings), await connect(settings)
    await asyncio.gather(claims(first), completions(second))
    await first.close()
    await second.close()


async def run(tasks: int, rounds: int, numbers: list[int]) -> Rates:
    """Interleave all and return their rates."""
    rates: Rates = {}
    options = {"shared_buffers": "512MB", "max_wal_size": "4GB"}
    with (
        tempfile.TemporaryDirectory(prefix="task-service-bench-", dir="/var/tmp") as folder,
        EmbeddedPostgres(Path(folder), options=options) as server,
    ):
        given = {"database_url": server.url(), "runtime_dir": Path(folder) / "run", "log_level": "WARNING"}
        settings = Settings(_env_file=None, **given)  # type: ignore[arg-type,call-arg]
        await migrate(create_engine(settings, pooled=False))
        connection = await asyncpg.connect(server.url())
        for _ in range(rounds):
            ways = {"plain": plain(settings, connection, tasks), "overlapped": overlapped(settings, connection, tasks)}
            ways |= {f"workers {n}": workers(settings, connection, tasks, n) for n in numbers}
            for name, way in ways.items():
                await connection.execute("TRUNCATE tasks, queue, runs, workers, task_deltas, task_counts CASCADE")
                await connection.execute("CHECKPOINT")
                await way
                rates.setdefault(name, []).append(float(await connection.fetchval(RATE)))
        await connection.close()
    return rates


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tasks", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    arguments = parser.parse_args()
    rates = asyncio.run(run(arguments.tasks, arguments.rounds, arguments.workers))
    for name, values in rates.items():
        ratios = [a / b for a, b in zip(values, rates["overlapped"], strict=True)]
        shown = "  ".join(f"{f(values):9,.0f}" for f in (min, statistics.median, max))
        print(f"{name:12} {shown}  tasks/s (min med max)   {statistics.median(ratios):5.2f} of overlapped")
    RESULTS.mkdir(exist_ok=True)
    kept = {"python": sys.version.split()[0], "tasks": arguments.tasks, **rates}
    (RESULTS / "drain.json").write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
