"""Celery with Redis and the solo pool: one process, no results."""

import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from celery import Celery

from bench.rivals.adaptors import Start

PREFETCH = 100


def app_of(url: str, queue: str) -> Celery:
    """Its application."""
    app = Celery("bench", broker=url)
    app.conf.update(
        task_ignore_result=True, task_default_queue=queue, worker_prefetch_multiplier=PREFETCH,
        worker_send_task_events=False, broker_connection_retry_on_startup=True,
    )  # fmt: skip
    return app


async def prepare(_: str) -> None:
    """Nothing: Redis has no tables."""


class Sending:
    """One connection of its pool."""

    def __init__(self, app: Celery) -> None:
        self._app = app

    async def one(self, number: int) -> None:
        """Its `send_task`."""
        self._app.send_task("bench", (number,))

    async def many(self, numbers: Sequence[int]) -> None:
        """One by one, over one connection: it has no other way."""
        with self._app.producer_or_acquire() as producer:
            for number in numbers:
                self._app.send_task("bench", (number,), producer=producer)


@asynccontextmanager
async def producer(url: str, queue: str) -> AsyncIterator[Sending]:
    """Its application."""
    app = app_of(url, queue)
    yield Sending(app)
    app.close()


async def work(url: str, queue: str, start: Start) -> None:
    """One worker; it ends the process itself."""
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("Celery's worker wants the main thread")
    app = app_of(url, queue)
    app.task(name="bench")(start)
    app.worker_main(
        ["worker", "--pool=solo", "--concurrency=1", "--without-gossip", "--without-mingle", "--without-heartbeat",
         "--loglevel=ERROR"]
    )  # fmt: skip
