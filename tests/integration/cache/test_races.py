"""Readers, writers, evictions and outages at once: no read that began after an acknowledged update is older than it.

Where the update did not reach Redis, the outbox has it, and five seconds later holds the same.
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
UNREACHED = "SELECT count(*) FROM cache_outbox"


class Race:
    """Processes that read and update a few tasks as fast as they can, and what they must see."""

    def __init__(self, instances: list[Instance], tasks: list[UUID], seed: int) -> None:
        self.instances, self.tasks = instances, tasks
        self.random = random.Random(seed)
        self.acknowledged = dict.fromkeys(tasks, 1)
        self.over = asyncio.Event()
        self.reads = self.late = 0

    async def run(self, *disturbances: Callable[[], Awaitable[None]]) -> None:
        """Race until every task has had its updates; the first old version that is read fails it."""
        beside = [
            self._read(instance) for instance in self.instances for _ in range(READERS_PER_INSTANCE)
        ]
        beside += [self._read_slowly(instance) for instance in self.instances for _ in range(2)]
        async with asyncio.TaskGroup() as group:
            for job in (*beside, *(self._until_over(disturb) for disturb in disturbances)):
                group.create_task(job)
            async with asyncio.TaskGroup() as updates:
                for task in self.tasks:
                    updates.create_task(self._update(task))
            self.over.set()
        for task in self.tasks:
            for instance in self.instances:
                self._check(task, await instance.read(task), self.acknowledged[task])

    async def _update(self, task: UUID) -> None:
        """An update counts as seen by all from its answer on, or five seconds later if it did not reach Redis."""
        unreached = UNREACHED + f" WHERE key = 'tasks::{task}' AND stamp = "
        late: list[asyncio.Task[None]] = []
        for n in range(UPDATES_PER_TASK):
            row = await self.random.choice(self.instances).update(task, title=str(n + 1))
            async with self.instances[0].transactions.read() as connection:
                waits = (await connection.exec_driver_sql(f"{unreached}{row.stamp}")).scalar()
            if waits:
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
            least = self.acknowledged[task]
            self._check(task, await cached_reads.read_task(instance.transactions, task), least)
            await asyncio.sleep(0)

    async def _read_slowly(self, instance: Instance) -> None:
        """As `cached_reads.read_task` does, with pauses where the world may change."""
        while not self.over.is_set():
            task = self.random.choice(self.tasks)
            least = self.acknowledged[task]
            found = await instance.cache.read(task)
            await self._pause()
            async with instance.transactions.read() as connection:
                row = await store.read_task(connection, task)
            self._check(task, row, least)
            await self._pause()
            if isinstance(found, Missing) and row is not None:
                await instance.cache.fill(found, task, row)

    async def _pause(self) -> None:
        await asyncio.sleep(self.random.uniform(0, 0.02))

    async def _until_over(self, disturb: Callable[[], Awaitable[None]]) -> None:
        while not self.over.is_set():
            await disturb()

    def _check(self, task: UUID, row: store.TaskRow | None, least: int) -> None:
        self.reads += 1
        assert row is not None
        assert row.version >= least, (
            f"read version {row.version} of {task} after {least} was acknowledged"
        )


def reads_so_far() -> Counter[str]:
    """The cache's own figures."""
    name = "task_service_cache_reads_total"
    outcomes = ("hit", "miss", "bypass")
    return Counter({o: int(REGISTRY.get_sample_value(name, {"outcome": o}) or 0) for o in outcomes})


@pytest.mark.parametrize("seed", [1, 2])
async def test_readers_updaters_and_evictions_race_and_no_read_is_old(
    start: StartInstance, keys: Redis, seed: int
) -> None:
    instances = [await start(redis_timeout_seconds=1.0) for _ in range(3)]
    race = Race(instances, [await instances[0].create() for _ in range(3)], seed)
    before = reads_so_far()

    async def evict() -> None:
        task = race.random.choice(race.tasks)
        await keys.delete(race.random.choice((f"tasks::{task}", f"tasks::{task}::stamp")))
        if race.random.random() < 0.1:
            await keys.flushall()
        await asyncio.sleep(race.random.uniform(0, 0.02))

    await race.run(evict)
    print(f"{race.reads} reads, {race.late} of {3 * UPDATES_PER_TASK} updates found Redis too slow")
    counted = reads_so_far() - before
    assert counted["hit"] > 100, counted
    assert counted["miss"] > 100, counted


async def test_a_redis_that_dies_and_comes_back_with_an_old_dump_makes_no_read_older_than_promised(
    start: StartInstance, dumping_redis: RedisServer
) -> None:
    instances = [
        await start(redis_url=dumping_redis.url, redis_timeout_seconds=1.0) for _ in range(3)
    ]
    race = Race(instances, [await instances[0].create() for _ in range(2)], seed=3)
    lives = 0

    async def die() -> None:
        nonlocal lives
        async with Redis.from_url(dumping_redis.url, protocol=2) as client:
            for task in race.tasks:
                await race.instances[0].read(task)
            await client.save()
        await asyncio.sleep(race.random.uniform(0.05, 0.2))
        dumping_redis.kill()
        await asyncio.to_thread(dumping_redis.start)
        lives += 1
        for instance in instances:
            await instance.wait_until_trusted()
        await asyncio.sleep(race.random.uniform(0.05, 0.2))

    await race.run(die)
    assert lives >= 1
    print(f"{lives} restarts, {race.late} of {2 * UPDATES_PER_TASK} updates did not reach Redis")
