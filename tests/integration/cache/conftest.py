"""A real Redis, and several instances of the API process in front of one database."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from redis.asyncio import Redis

from task_service.loops.cache_watch import CacheWatch
from task_service.services.transactions import TransactionManager
from task_service.store.cache.cache import Cache
from task_service.store.database import create_engine
from tests.support.cache_instances import Instance, StartInstance
from tests.support.redis import RedisServer, redis_server
from tests.support.service_settings import settings_for
from tests.support.tasks import quiet_wakeups

LONG_TIMEOUTS = {
    "lease_seconds": 30,
    "db_pool_timeout_seconds": 60,
    "db_statement_timeout_seconds": 60,
}
"""Timeouts with which a busy machine neither ends a transaction nor refuses a connection."""


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    """Redis server of this test."""
    with redis_server() as server:
        yield server


@pytest.fixture
def dumping_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """Redis server that loads its dump when it starts."""
    with redis_server(tmp_path) as server:
        yield server


@pytest_asyncio.fixture
async def start(database: str, redis: RedisServer) -> AsyncIterator[StartInstance]:
    """Function that starts an instance and waits until its cache is trusted.

    With `trusted=False` it does not wait. With `watched=False` the instance checks Redis and the
    outbox only when the test calls `watch.check`.
    """
    started: list[Instance] = []

    async def start_instance(
        *, trusted: bool = True, watched: bool = True, **overrides: Any
    ) -> Instance:
        defaults: dict[str, Any] = {"redis_url": redis.url, "db_pool_size": 8} | LONG_TIMEOUTS
        settings = settings_for(database, **(defaults | overrides))
        transactions = TransactionManager(settings, create_engine(settings), quiet_wakeups())
        assert isinstance(transactions.cache, Cache)
        instance = Instance(transactions, CacheWatch(settings, transactions.cache))
        started.append(instance)
        if watched:
            await instance.watch.start()
        if watched and trusted:
            await instance.wait_until_trusted()
        return instance

    yield start_instance
    for instance in started:
        await instance.watch.stop()
        await instance.transactions.engine.dispose()


@pytest_asyncio.fixture
async def keys(redis: RedisServer) -> AsyncIterator[Redis]:
    """Client that inspects and deletes keys in Redis."""
    client = Redis.from_url(redis.url, protocol=2)
    yield client
    await client.aclose()
