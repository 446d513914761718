"""Dramatiq with Redis and its eight threads, in one process."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from bench.rivals.adaptors import Start

THREADS = 8


async def prepare(_: str) -> None:
    """Nothing: Redis has no tables."""


class Sending:
    """An actor's messages."""

    def __init__(self, broker: RedisBroker, queue: str) -> None:
        @dramatiq.actor(actor_name="bench", broker=broker, queue_name=queue)
        def bench(_: int) -> None:
            """Never called here."""

        self._bench = bench

    async def one(self, number: int) -> None:
        """Its `send`."""
        self._bench.send(number)

    async def many(self, numbers: Sequence[int]) -> None:
        """One by one: it has no other way."""
        for number in numbers:
            self._bench.send(number)


@asynccontextmanager
async def producer(url: str, queue: str) -> AsyncIterator[Sending]:
    """One broker."""
    broker = RedisBroker(url=url)
    yield Sending(broker, queue)
    broker.close()


async def work(url: str, queue: str, start: Start) -> None:
    """One worker with its threads."""
    broker = RedisBroker(url=url)
    dramatiq.actor(actor_name="bench", broker=broker, queue_name=queue)(start)
    worker = dramatiq.Worker(broker, worker_threads=THREADS)
    worker.start()
    try:
        await asyncio.Event().wait()
    finally:
        worker.stop()
