"""Awa: a core in Rust with handlers in Python; its own storage, entered by COPY."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import awa
from awa import AsyncClient

from bench.rivals.adaptors import Start

WORKERS = 500
CONNECTIONS = 20
CHUNK = 10_000


@dataclass
class Bench:
    """A job and its argument."""

    number: int


async def prepare(url: str) -> None:
    """Migrate, and choose its newest storage, as its first worker would."""
    async with AsyncClient(url) as client:
        await client.migrate()
        await client.install_queue_storage()


class Inserting:
    """One client."""

    def __init__(self, client: AsyncClient, queue: str) -> None:
        self._client, self._queue = client, queue

    async def one(self, number: int) -> None:
        """Its `insert`."""
        await self._client.insert(Bench(number), queue=self._queue)

    async def many(self, numbers: Sequence[int]) -> None:
        """Its `enqueue_many_copy`."""
        for at in range(0, len(numbers), CHUNK):
            jobs = [Bench(number) for number in numbers[at : at + CHUNK]]
            await self._client.enqueue_many_copy(jobs, queue=self._queue)


@asynccontextmanager
async def producer(url: str, queue: str) -> AsyncIterator[Inserting]:
    """One client."""
    async with AsyncClient(url) as client:
        yield Inserting(client, queue)


async def work(url: str, queue: str, start: Start) -> None:
    """One runtime with one queue."""
    client = AsyncClient(url, max_connections=CONNECTIONS)

    @client.task(Bench, queue=queue)
    async def bench(job: "awa.Job[Bench]") -> None:
        start(job.args.number)

    await client.start([(queue, WORKERS)])
    try:
        await asyncio.Event().wait()
    finally:
        await client.shutdown()
        await client.close()
