"""Oban for Python on psycopg 3 with its pool, on uvloop as its own command runs."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import uvloop
from oban import Oban, worker
from oban.job import Job
from oban.schema import install

from bench.rivals.adaptors import Start

LIMIT = 1_000
CHUNK = 1_000
run = uvloop.run
handlers: list[Start] = []


@worker()
class Bench:
    """Found by its path, so what it calls is kept beside it."""

    async def process(self, job: Job) -> None:
        """Say that it began."""
        handlers[0](job.args["number"])


async def prepare(url: str) -> None:
    """Install its tables."""
    pool = await Oban.create_pool(url)
    await install(pool)
    await pool.close()


class Enqueuing:
    """An instance without queues."""

    def __init__(self, oban: Oban, queue: str) -> None:
        self._oban, self._queue = oban, queue

    def _job(self, number: int) -> Job:
        return Bench.new({"number": number}, queue=self._queue)  # type: ignore[attr-defined] # by its decorator

    async def one(self, number: int) -> None:
        """Its `enqueue`."""
        await self._oban.enqueue(self._job(number))

    async def many(self, numbers: Sequence[int]) -> None:
        """Its `enqueue_many`."""
        for at in range(0, len(numbers), CHUNK):
            await self._oban.enqueue_many(map(self._job, numbers[at : at + CHUNK]))


@asynccontextmanager
async def producer(url: str, queue: str) -> AsyncIterator[Enqueuing]:
    """A client, as its guide calls it."""
    pool = await Oban.create_pool(url)
    async with Oban(pool=pool) as oban:
        yield Enqueuing(oban, queue)
    await pool.close()


async def work(url: str, queue: str, start: Start) -> None:
    """One instance with one queue."""
    handlers[:] = [start]
    pool = await Oban.create_pool(url)
    async with Oban(pool=pool, queues={queue: LIMIT}):
        await asyncio.Event().wait()
    await pool.close()
