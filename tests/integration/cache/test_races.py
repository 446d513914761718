"""Concurrent readers, writers, evictions and outages: no read returns data older than an
acknowledged update.

An update that did not reach Redis is in the outbox, and the guarantee holds five seconds later.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from uuid import UUID

import pytest
from prometheus_client import REGISTRY
from redis.asyncio import Redis

from task_service.services import cached_reads
from task_service.store import tasks as store
from task_service.store.cache.cache import Missing
from tests.support.cache_instances import Instance, StartInstance
from tests.support.redis import RedisServer

pytestmark = pytest.mark.asyncio
UPDATES_PER_TASK = 100
READERS_PER_INSTANCE = 3
STALE_SECONDS = 5.0
UNDELIVERED = "SELECT count(*) FROM cache_outbox"


class Race:
    """Instances that read and update a few tasks as fast as they can, with checks of every read."""

    def __init__(self, instances: list[Instance], tasks: list[UUID], seed: int) -> None:
        self.instances, self.tasks = instances, tasks
        self.random = random.Random(seed)
        self.acknowledged = dict.fromkeys(tasks, 1)
        self.over = asyncio.Event()
        self.reads = self.late = 0

    async def run(self, *disturbances: Callable[[], Awaitable[None]]) -> None:
        """Run until every task has been updated; a stale read fails the race."""
        readers = [
            self._read(instance) for instance in self.instances for _ in range(READERS_PER_INSTANCE)
        ]
        readers += [self._read_slowly(instance) for instance in self.instances for _ in range(2)]
        async with asyncio.TaskGroup() as group:
            for job in (*readers, *(self._until_over(disturbance) for disturbance in disturbances)):
                group.create_task(job)
            async with asyncio.TaskGroup() as updates:
                for task in self.tasks:
                    updates.create_task(self._update(task))
            self.over.set()
        for task in self.tasks:
            for instance in self.instances:
                self._check(task, await instance.read(task), self.acknowledged[task])

    async def _update(self, task: UUID) -> None:
        """Update a task; the update counts at once, or after five seconds if it did not reach
        Redis.
        """
        undelivered = UNDELIVERED + f" WHERE key = 'tasks::{task}' AND stamp = "
        late: list[asyncio.Task[None]] = []
        for n in range(UPDATES_PER_TASK):
            row = await self.random.choice(self.instances).update(task, title=str(n + 1))
            async with self.instances[0].transactions.read() as connection:
                is_undelivered = (
                    await connection.exec_driver_sql(f"{undelivered}{row.stamp}")
                ).scalar()
            if is_undelivered:
                late.append(asyncio.create_task(self._acknowledge_late(task, row.version)))
            else:
                self._acknowledge(task, row.version)
            await asyncio.sleep(self.random.choice((0, 0, 0.002, 0.01)))
        self.late += len(late)
        await asyncio.gather(*late)

    def _acknowledge(self, task: UUID, version: int) -> None:
        self.acknowledged[task] = max(version, self.acknowledged[task])

    async def _acknowledge_late(self, task: UUID, version: int) -> None:
        await asyncio.sleep(STALE_SECONDS)
        self._acknowledge(task, version)

    async def _read(self, instance: Instance) -> None:
        while not self.over.is_set():
            task = self.random.choice(self.tasks)
            minimum = self.acknowledged[task]
            self._check(task, await cached_reads.read_task(instance.transactions, task), minimum)
            await asyncio.sleep(0)

    async def _read_slowly(self, instance: Instance) -> None:
        """Read like `cached_reads.read_task` does, with pauses where the world may change."""
        while not self.over.is_set():
            task = self.random.choice(self.tasks)
            minimum = self.acknowledged[task]
            token = await instance.cache.read(task)
            await self._pause()
            async with instance.transactions.read() as connection:
                row = await store.read_task(connection, task)
            self._check(task, row, minimum)
            await self._pause()
            if isinstance(token, Missing) and row is not None:
                await instance.cache.fill(token, task, row)

    async def _pause(self) -> None:
        await asyncio.sleep(self.random.uniform(0, 0.02))

    async def _until_over(self, disturbance: Callable[[], Awaitable[None]]) -> None:
        while not self.over.is_set():
            await disturbance()

    def _check(self, task: UUID, row: store.TaskRow | None, minimum: int) -> None:
        self.reads += 1
        assert row is not None
        assert row.version >= minimum, (
            f"read version {row.version} of {task} after {minimum} was acknowledged"
        )


def read_counters() -> Counter[str]:
    """Return the read counters of the cache."""
    name = "task_service_cache_reads_total"
    outcomes = ("hit", "miss", "bypass")
    return Counter({o: int(REGISTRY.get_sample_value(name, {"outcome": o}) or 0) for o in outcomes})


@pytest.mark.parametrize("seed", [1, 2])
async def test_no_read_is_stale_during_updates_and_evictions(
    start: StartInstance, keys: Redis, seed: int
) -> None:
    instances = [await start(redis_timeout_seconds=1.0) for _ in range(3)]
    race = Race(instances, [await instances[0].create() for _ in range(3)], seed)
    before = read_counters()

    async def evict() -> None:
        task = race.random.choice(race.tasks)
        await keys.delete(race.random.choice((f"tasks::{task}", f"tasks::{task}::stamp")))
        if race.random.random() < 0.1:
            await keys.flushall()
        await asyncio.sleep(race.random.uniform(0, 0.02))

    await race.run(evict)
    print(f"{race.reads} reads, {race.late} of {3 * UPDATES_PER_TASK} updates found Redis too slow")
    counted = read_counters() - before
    assert counted["hit"] > 100, counted
    assert counted["miss"] > 100, counted


async def test_no_read_is_too_stale_while_redis_restarts_with_old_dumps(
    start: StartInstance, dumping_redis: RedisServer
) -> None:
    instances = [
        await start(redis_url=dumping_redis.url, redis_timeout_seconds=1.0) for _ in range(3)
    ]
    race = Race(instances, [await instances[0].create() for _ in range(2)], seed=3)
    restarts = 0

    async def restart() -> None:
        nonlocal restarts
        async with Redis.from_url(dumping_redis.url, protocol=2) as client:
            for task in race.tasks:
                await race.instances[0].read(task)
            await client.save()
        await asyncio.sleep(race.random.uniform(0.05, 0.2))
        dumping_redis.kill()
        await asyncio.to_thread(dumping_redis.start)
        restarts += 1
        for instance in instances:
            await instance.wait_until_trusted()
        await asyncio.sleep(race.random.uniform(0.05, 0.2))

    await race.run(restart)
    assert restarts >= 1
    print(f"{restarts} restarts, {race.late} of {2 * UPDATES_PER_TASK} updates did not reach Redis")
