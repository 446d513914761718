"""Instances of the API process in front of one database, each with its own engine, cache and watch."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from uuid import UUID

from redis.asyncio import Redis

from task_service.domain.principals import ANONYMOUS
from task_service.loops.cache_watch import CacheWatch
from task_service.schemas.tasks import NewTask, TaskChange
from task_service.services import cached_reads, tasks
from task_service.services.transactions import TransactionManager
from task_service.store.cache.cache import Cache
from task_service.store.tasks import TaskRow
from tests.support.waiting import eventually


@dataclass
class Instance:
    """The part of one API process that reads and writes tasks: transaction manager, cache and
    watch.
    """

    transactions: TransactionManager
    watch: CacheWatch

    @property
    def cache(self) -> Cache:
        """The cache in Redis."""
        assert isinstance(self.transactions.cache, Cache)
        return self.transactions.cache

    async def create(self, **fields: object) -> UUID:
        """Create a task and return its id; a manual task unless the fields name a handler."""
        new = NewTask.model_validate({"title": "0"} | fields)
        created = await self.transactions.write(lambda t: tasks.create_task(t, new, ANONYMOUS))
        return created.task.id

    async def update(self, task_id: UUID, **fields: object) -> TaskRow:
        """Change a task; the change is acknowledged when this returns."""
        wanted = TaskChange.model_validate(fields)
        return await self.transactions.write(
            lambda t: tasks.change_task(t, task_id, wanted, ANONYMOUS)
        )

    async def delete(self, task_id: UUID, *, hard: bool = False) -> None:
        """Delete a task."""
        await self.transactions.write(lambda t: tasks.remove_task(t, task_id, ANONYMOUS, hard=hard))

    async def read(self, task_id: UUID) -> TaskRow | None:
        """Read a task through the cache."""
        return await cached_reads.read_task(self.transactions, task_id)

    async def title(self, task_id: UUID) -> str:
        """Return the title that a reader sees."""
        task = await self.read(task_id)
        assert task is not None
        return task.title

    async def wait_until_trusted(self) -> None:
        """Wait until the watch allows reads from the cache."""

        async def is_trusted() -> bool:
            return self.cache.is_trusted

        await eventually("trust in the cache", is_trusted, 60)


async def value_of(client: Redis, key: str) -> bytes:
    """Return the value of a key, which must exist."""
    value = await client.get(key)
    assert isinstance(value, bytes)
    return value


StartInstance = Callable[..., Awaitable[Instance]]
"""Type of the fixture `start`."""
