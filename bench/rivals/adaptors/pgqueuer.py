"""PGQueuer on asyncpg, in batches of 1,000, on uvloop; durable tables, which is its default too."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import asyncpg
import uvloop
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver
from pgqueuer.domain.settings import DBSettings, Durability
from pgqueuer.models import Job
from pgqueuer.queries import Queries

from bench.rivals.adaptors import Start

BATCH = 1000
CHUNK = 10_000
run = uvloop.run


async def prepare(url: str) -> None:
    """Install its tables."""
    if DBSettings().durability is not Durability.durable:
        raise RuntimeError("PGQueuer would not make durable tables")
    connection = await asyncpg.connect(url)
    await Queries(AsyncpgDriver(connection)).install()
    await connection.close()


class Enqueuing:
    """One connection."""

    def __init__(self, queries: Queries, queue: str) -> None:
        self._queries, self._queue = queries, queue

    async def one(self, number: int) -> None:
        """Its `enqueue` for one."""
        await self._queries.enqueue(self._queue, b"%d" % number)

    async def many(self, numbers: Sequence[int]) -> None:
        """Its `enqueue` for lists."""
        for at in range(0, len(numbers), CHUNK):
            some = numbers[at : at + CHUNK]
            await self._queries.enqueue(
                [self._queue] * len(some), [b"%d" % n for n in some], [0] * len(some)
            )


@asynccontextmanager
async def producer(url: str, queue: str) -> AsyncIterator[Enqueuing]:
    """One connection."""
    connection = await asyncpg.connect(url)
    yield Enqueuing(Queries(AsyncpgDriver(connection)), queue)
    await connection.close()


async def work(url: str, queue: str, start: Start) -> None:
    """One queue manager on one connection."""
    connection = await asyncpg.connect(url)
    manager = PgQueuer(AsyncpgDriver(connection))

    @manager.entrypoint(queue)
    async def bench(job: Job) -> None:
        start(int(job.payload))

    running = asyncio.create_task(manager.run(batch_size=BATCH))
    try:
        await asyncio.Event().wait()
    finally:
        manager.shutdown.set()
        with contextlib.suppress(asyncio.CancelledError):
            await running
        await connection.close()
