"""A real Redis, and several processes of the service before one database: each with its own engine, cache and watch."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from uuid import UUID

import pytest
import pytest_asyncio
from redis.asyncio import Redis

from task_service.domain.principals import ANONYMOUS
from task_service.loops.cache_watch import CacheWatch
from task_service.schemas.tasks import NewTask, TaskChange
from task_service.services import cached_reads, tasks
from task_service.services.context import Context
from task_service.services.tasks import Change
from task_service.store.cache.cache import Cache
from task_service.store.database import create_engine
from task_service.store.tasks import TaskRow
from tests.support.redis import RedisServer, redis_server
from tests.support.service_settings import settings_for
from tests.support.tasks import quiet_wakeups
from tests.support.waiting import eventually

PATIENT = {"lease_seconds": 30, "db_pool_timeout_seconds": 60, "db_statement_timeout_seconds": 60}
"""So that a busy machine neither ends a transaction nor refuses a connection."""


@dataclass
class Instance:
    """What one API process has of tasks: its context, its cache, and the watch over it."""

    context: Context
    watch: CacheWatch
    acknowledged: dict[UUID, int] = field(default_factory=dict)

    @property
    def cache(self) -> Cache:
        """The cache in Redis."""
        assert isinstance(self.context.cache, Cache)
        return self.context.cache

    async def create(self, **fields: object) -> UUID:
        """A new task's id; for a person unless the fields name a handler."""
        new = NewTask.model_validate({"title": "0"} | fields)
        return (
            await self.context.write(lambda c: tasks.create_task(self.context, c, new, ANONYMOUS))
        ).task.id

    async def update(self, task_id: UUID, **fields: object) -> TaskRow:
        """Change a task; when this returns, the change is acknowledged."""
        wanted, change = TaskChange.model_validate(fields), Change(ANONYMOUS)
        return await self.context.write(
            lambda c: tasks.change_task(self.context, c, task_id, wanted, change)
        )

    async def remove(self, task_id: UUID, *, hard: bool = False) -> None:
        """Delete a task."""
        await self.context.write(
            lambda c: tasks.remove_task(self.context, c, task_id, Change(ANONYMOUS), hard=hard)
        )

    async def read(self, task_id: UUID) -> TaskRow | None:
        """Read a task through the cache."""
        return await cached_reads.read_task(self.context, task_id)

    async def title(self, task_id: UUID) -> str:
        """The title that a reader sees."""
        task = await self.read(task_id)
        assert task is not None
        return task.title

    async def trusted(self) -> None:
        """Wait until the watch lets the cache be read."""

        async def trusts() -> bool:
            return self.cache.is_trusted

        await eventually("trust in the cache", trusts, 60)


Start = Callable[..., Awaitable[Instance]]


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    """This test's Redis."""
    with redis_server() as server:
        yield server


@pytest_asyncio.fixture
async def start(database: str, redis: RedisServer) -> AsyncIterator[Start]:
    """A coroutine that starts a process; its cache may be read from then on, unless its Redis is away.

    Without being watched it looks only when the test calls `watch.look`.
    """
    started: list[Instance] = []

    async def begin(*, trusted: bool = True, watched: bool = True, **settings: object) -> Instance:
        more = {"redis_url": redis.url, "db_pool_size": 8} | PATIENT
        given = settings_for(database, **(more | settings))
        context = Context(given, create_engine(given), quiet_wakeups())
        assert isinstance(context.cache, Cache)
        instance = Instance(context, CacheWatch(given, context.cache))
        started.append(instance)
        if watched:
            await instance.watch.start()
        if watched and trusted:
            await instance.trusted()
        return instance

    yield begin
    for instance in started:
        await instance.watch.stop()
        await instance.context.engine.dispose()


@pytest_asyncio.fixture
async def keys(redis: RedisServer) -> AsyncIterator["Redis"]:
    """A client that looks at the keys as they are, and takes some away."""
    client = Redis.from_url(redis.url, protocol=2)
    yield client
    await client.aclose()
