"""Procrastinate on psycopg 3 with its pool; many jobs at a time, as its handlers are coroutines."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import procrastinate

from bench.rivals.adaptors import Start

CONCURRENCY = 5
CHUNK = 1_000


def app_of(url: str) -> procrastinate.App:
    """Its application on one database."""
    return procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=url))


async def prepare(url: str) -> None:
    """Apply its schema."""
    async with app_of(url).open_async() as app:
        await app.schema_manager.apply_schema_async()


class Deferring:
    """A task that is known by its name only, as where producer and worker are two programs."""

    def __init__(self, app: procrastinate.App, queue: str) -> None:
        self._app, self._queue = app, queue

    async def one(self, number: int) -> None:
        """Its `defer`."""
        await self._app.configure_task("bench", queue=self._queue).defer_async(number=number)

    async def many(self, numbers: Sequence[int]) -> None:
        """Its `batch_defer`."""
        for at in range(0, len(numbers), CHUNK):
            jobs = [{"number": number} for number in numbers[at : at + CHUNK]]
            await self._app.configure_task("bench", queue=self._queue).batch_defer_async(*jobs)


@asynccontextmanager
async def producer(url: str, queue: str) -> AsyncIterator[Deferring]:
    """Its application, opened."""
    async with app_of(url).open_async() as app:
        yield Deferring(app, queue)


async def work(url: str, queue: str, start: Start) -> None:
    """One worker, woken by LISTEN."""
    app = app_of(url)

    @app.task(name="bench", queue=queue)
    async def bench(number: int) -> None:
        start(number)

    async with app.open_async():
        await app.run_worker_async(
            queues=[queue], concurrency=CONCURRENCY, install_signal_handlers=False
        )
