"""What the cache saves: reads of a task through Redis against reads from PostgreSQL, taken in turns
in one process.

    .venv/bin/python -m bench.cache [ROUNDS]

Prints reads a second (eight at once) and milliseconds of CPU a read, here and in the server;
medians of the rounds.
"""

import asyncio
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from uuid import UUID

from task_service.domain.principals import ANONYMOUS
from task_service.embedded import EmbeddedPostgres
from task_service.loops.cache_watch import watch_cache
from task_service.migrations.upgrade import migrate
from task_service.queue.wakeups import Wakeups
from task_service.schemas.tasks import NewTask
from task_service.services.cached_reads import read_task
from task_service.services.tasks import create_task
from task_service.services.transactions import TransactionManager
from task_service.settings import Settings
from task_service.store.database import create_engine
from tests.support.redis import redis_server

AT_ONCE, READS = 8, 100


def cpu_seconds_below(pid: int) -> float:
    """CPU time of a process and its present and former children."""
    total = 0.0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(") ", 1)[1].split()
        except OSError:
            continue
        if int(stat.parent.name) == pid or int(fields[1]) == pid:
            total += sum(int(ticks) for ticks in fields[11:13]) / 100
    return total


async def round_of(
    transactions: TransactionManager, ids: list[UUID], server: int
) -> tuple[float, float, float]:
    """Reads a second, CPU of this process and of the server a read in milliseconds."""
    begun, own, its = time.perf_counter(), time.process_time(), cpu_seconds_below(server)

    async def read(first: int) -> None:
        for n in range(READS):
            assert await read_task(transactions, ids[(first + n) % len(ids)]) is not None

    await asyncio.gather(*(read(n * 7) for n in range(AT_ONCE)))
    reads, taken = READS * AT_ONCE, time.perf_counter() - begun
    return (
        reads / taken,
        (time.process_time() - own) / reads * 1000,
        (cpu_seconds_below(server) - its) / reads * 1000,
    )


async def compare(url: str, redis_url: str, pids: tuple[int, int], rounds: int) -> None:
    """Take turns, print medians."""
    plain, cached = (
        Settings(_env_file=None, database_url=url, redis_url=redis, log_level="ERROR")  # type: ignore[call-arg]
        for redis in (None, redis_url)
    )
    engine = create_engine(plain)
    await migrate(engine)
    managers = [
        TransactionManager(settings, engine, Wakeups(lambda _: asyncio.sleep(0)))
        for settings in (plain, cached)
    ]
    new = NewTask.model_validate({"title": "a task", "description": "x" * 200, "tags": ["a", "b"]})
    ids = [
        (await managers[0].write(lambda t: create_task(t, new, ANONYMOUS))).task.id
        for _ in range(50)
    ]
    [watch] = watch_cache(cached, managers[1].cache)
    await watch.start()
    await asyncio.sleep(1.5)
    figures: list[list[tuple[float, float, float]]] = [[], []]
    for number in range(rounds + 1):
        for which, transactions in enumerate(managers):
            figure = await round_of(transactions, ids, pids[which])
            if number:  # the first warms up
                figures[which].append(figure)
    for name, of in zip(("PostgreSQL", "cache"), figures, strict=True):
        rate, own, its = (median(column) for column in zip(*of, strict=True))
        print(
            f"{name:11} {rate:7.0f} reads/s   {own:.2f} ms CPU here   {its:.2f} ms CPU in the server"
        )
    await watch.stop()
    await engine.dispose()


def main() -> None:
    """Start both servers, compare, stop them."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    with (
        tempfile.TemporaryDirectory(dir="/var/tmp") as folder,
        EmbeddedPostgres(Path(folder)) as server,
        redis_server() as redis,
    ):
        pids = (server.process.pid if server.process else 0, redis.pid)
        asyncio.run(compare(server.url(), redis.url, pids, rounds))


if __name__ == "__main__":
    main()
