"""No-op tasks per second of one worker, against a plain psycopg2 script on the same server, in the same run.

    python -m bench.drain [--tasks 40000] [--rounds 5]

The ceiling runs the worker's own statements in batches of 500 on one connection, one after the other, and does nothing
else. Rounds are interleaved; the server is durable (fsync and synchronous_commit on). Prints a table and the ratio, and
writes bench/results/drain.json.
"""

import argparse
import asyncio
import json
import re
import statistics
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import psycopg2  # type: ignore[import-untyped]

from task_service.embedded import EmbeddedPostgres
from task_service.migrations.runner import migrate
from task_service.queue.statements import statement
from task_service.settings import Settings
from task_service.store.database import create_engine
from task_service.telemetry.logs import configure_logs
from task_service.worker.builtin import noop
from task_service.worker.handlers import Handlers
from task_service.worker.process import Worker
from tests.support.tasks import add_tasks, add_worker

BATCH = 500
RESULTS = Path(__file__).parent / "results"


async def ours(settings: Settings, connection: asyncpg.Connection, count: int) -> float:
    """Tasks per second of one worker process, from its registration to the last task's commit."""
    await add_tasks(connection, count)
    worker = Worker(settings, Handlers([noop]))
    started = time.perf_counter()
    await worker.start()
    while worker.completed < count:
        await asyncio.sleep(0.002)
    await worker.reports.flushed()
    seconds = time.perf_counter() - started
    await worker.stop()
    assert await connection.fetchval("SELECT count(*) FROM queue") == 0
    return count / seconds


async def ceiling(settings: Settings, connection: asyncpg.Connection, count: int) -> float:
    """Tasks per second of the same statements without our Python."""
    await add_tasks(connection, count)
    worker = await add_worker(connection)
    return await asyncio.to_thread(_ceiling, settings.read_database_url(), str(worker), count)


def _ceiling(url: str, worker: str, count: int) -> float:
    claim, finish = (_numbered(statement(name)) for name in ("claim", "finish"))
    with psycopg2.connect(url) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        cursor.execute(f"PREPARE claim (uuid, text[], smallint[], timestamptz[], integer, boolean) AS {claim}")
        cursor.execute(f"PREPARE finish (uuid, uuid[], bigint[], text[], text[], text[], text[]) AS {finish}")
        since, done = datetime(2000, 1, 1, tzinfo=UTC), 0
        started = time.perf_counter()
        while done < count:
            cursor.execute("EXECUTE claim (%s, %s, %s, %s, %s, %s)", (worker, ["default"], [2], [since], BATCH, False))
            rows = sorted((row[0], row[1]) for row in cursor.fetchall())
            ids, fences, none = [r[0] for r in rows], [r[1] for r in rows], [None] * len(rows)
            arguments = (worker, ids, fences, ["completed"] * len(rows), none, none, none)
            cursor.execute("EXECUTE finish (%s, %s::uuid[], %s, %s, %s::text[], %s::text[], %s::text[])", arguments)
            done += len(cursor.fetchall())
        return count / (time.perf_counter() - started)


def _numbered(sql: str) -> str:
    """A statement without its comments (psycopg2 would read a % in them)."""
    return re.sub(r"--.*", "", sql)


async def run(tasks: int, rounds: int) -> dict[str, list[float]]:
    """Interleave both and return their figures."""
    figures: dict[str, list[float]] = {"ours": [], "ceiling": []}
    options = {"shared_buffers": "512MB", "max_wal_size": "4GB"}
    with (
        tempfile.TemporaryDirectory(prefix="task-service-bench-", dir="/var/tmp") as folder,
        EmbeddedPostgres(Path(folder), options=options) as server,
    ):
        given = {"database_url": server.url(), "runtime_dir": Path(folder) / "run", "log_level": "WARNING"}
        configure_logs(settings := Settings(_env_file=None, **given))  # type: ignore[arg-type,call-arg]
        await migrate(create_engine(settings, pooled=False))
        connection = await asyncpg.connect(server.url())
        for _ in range(rounds):
            figures["ours"].append(await ours(settings, connection, tasks))
            figures["ceiling"].append(await ceiling(settings, connection, tasks))
        await connection.close()
    return figures


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=40_000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    figures = asyncio.run(run(arguments.tasks, arguments.rounds))
    for name, values in figures.items():
        print(
            f"{name:8} {min(values):9,.0f} {statistics.median(values):9,.0f} {max(values):9,.0f}  tasks/s (min med max)"
        )
    ratios = [a / b for a, b in zip(figures["ours"], figures["ceiling"], strict=True)]
    print(f"ratio    {min(ratios):9.2f} {statistics.median(ratios):9.2f} {max(ratios):9.2f}")
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "drain.json").write_text(json.dumps({"tasks": arguments.tasks, **figures}, indent=1))


if __name__ == "__main__":
    main()
