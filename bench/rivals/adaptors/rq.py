"""RQ with Redis and the worker that does not fork."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from redis import Redis
from rq import Queue
from rq.worker import SimpleWorker

from bench.rivals.adaptors import Start

CHUNK = 1_000
FUNCTION = f"{__name__}.bench"
handlers: list[Start] = []


def bench(number: int) -> None:
    """Found by its path, so what it calls is kept beside it."""
    handlers[0](number)


async def prepare(_: str) -> None:
    """Nothing: Redis has no tables."""


class Enqueuing:
    """One queue; results are not kept."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue

    async def one(self, number: int) -> None:
        """Its `enqueue`."""
        self._queue.enqueue(FUNCTION, number, result_ttl=0)

    async def many(self, numbers: Sequence[int]) -> None:
        """Its `enqueue_many`, which sends them in a pipeline."""
        for at in range(0, len(numbers), CHUNK):
            some = numbers[at : at + CHUNK]
            self._queue.enqueue_many(
                [Queue.prepare_data(FUNCTION, (number,), result_ttl=0) for number in some]
            )


@asynccontextmanager
async def producer(url: str, queue: str) -> AsyncIterator[Enqueuing]:
    """One connection."""
    connection = Redis.from_url(url)
    yield Enqueuing(Queue(queue, connection=connection))
    connection.close()


async def work(url: str, queue: str, start: Start) -> None:
    """One worker; it ends the process itself."""
    handlers[:] = [start]
    connection = Redis.from_url(url)
    SimpleWorker([Queue(queue, connection=connection)], connection=connection).work(
        logging_level="WARNING"
    )
