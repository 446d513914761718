"""Redis crashes, hangs, restarts with an old dump or is unreachable: what readers see, and how
fast.
"""

import asyncio
import time
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest
from redis.asyncio import Redis

from task_service.embedded import free_port
from task_service.store.cache.cache import Missing
from task_service.store.tasks import read_task as read_row
from tests.support.cache_instances import Instance, StartInstance, value_of
from tests.support.redis import RedisServer, redis_server
from tests.support.waiting import eventually

pytestmark = pytest.mark.asyncio
COUNT_OUTBOX = "SELECT count(*) FROM cache_outbox"
TIMEOUT_SECONDS = 0.25


async def wait_for_delivery(connection: asyncpg.Connection) -> None:
    """Wait until the outbox is empty."""

    async def is_empty() -> bool:
        return not await connection.fetchval(COUNT_OUTBOX)

    await eventually("delivery of the outbox", is_empty)


async def wait_until_cached(instance: Instance, task: UUID, url: str) -> None:
    """Wait until reads fill the cache again."""
    async with Redis.from_url(url, protocol=2) as client:

        async def is_cached() -> bool:
            await instance.read(task)
            return bool(await client.exists(f"tasks::{task}"))

        await eventually("a cached value", is_cached)


async def test_value_in_an_old_dump_is_not_used(
    start: StartInstance, dumping_redis: RedisServer
) -> None:
    writer, reader = (
        await start(redis_url=dumping_redis.url),
        await start(redis_url=dumping_redis.url),
    )
    task = await writer.create()
    assert await reader.title(task) == "0"
    async with Redis.from_url(dumping_redis.url, protocol=2) as client:
        await client.save()
    await writer.update(task, title="new")
    dumping_redis.kill()
    dumping_redis.start()
    async with Redis.from_url(dumping_redis.url, protocol=2) as client:
        assert b'"title":"0"' in await value_of(client, f"tasks::{task}")
        for instance in (reader, writer, await start(redis_url=dumping_redis.url)):
            await instance.wait_until_trusted()
            assert await instance.title(task) == "new"
        assert b'"title":"new"' in await value_of(client, f"tasks::{task}")


async def test_fill_that_began_before_a_restart_is_rejected_after_it(
    start: StartInstance, dumping_redis: RedisServer
) -> None:
    writer, slow = (
        await start(redis_url=dumping_redis.url),
        await start(redis_url=dumping_redis.url),
    )
    task = await writer.create()
    token = await slow.cache.read(task)
    old = await writer.read(task)
    async with Redis.from_url(dumping_redis.url, protocol=2) as client:
        await client.delete(f"tasks::{task}")
        await client.save()  # the dump contains the fill token of the slow reader
    await writer.update(task, title="new")
    dumping_redis.kill()
    dumping_redis.start()
    assert token is not None
    assert old is not None
    await slow.cache.fill(token, task, old)  # type: ignore[arg-type]
    await slow.wait_until_trusted()
    assert await slow.title(task) == "new"


async def test_reads_and_updates_work_without_redis_and_use_it_again_later(
    start: StartInstance, redis: RedisServer, connection: asyncpg.Connection
) -> None:
    writer, reader = await start(), await start()
    task = await writer.create()
    await reader.title(task)
    redis.kill()
    started_at = time.monotonic()
    for n in range(1, 21):
        await writer.update(task, title=str(n))
        assert (await writer.title(task), await reader.title(task)) == (str(n), str(n))
    assert time.monotonic() - started_at < 5
    assert await connection.fetchval(COUNT_OUTBOX) == 20
    redis.start()
    await wait_for_delivery(connection)
    await wait_until_cached(reader, task, redis.url)
    assert await reader.title(task) == "20"


async def test_redis_that_hangs_delays_only_the_first_reads(
    start: StartInstance, redis: RedisServer, connection: asyncpg.Connection
) -> None:
    writer, reader = await start(), await start()
    task = await writer.create()
    await reader.title(task)
    redis.hang()
    started_at = time.monotonic()
    assert await reader.title(task) == "0"
    assert time.monotonic() - started_at < TIMEOUT_SECONDS + 0.5
    started_at = time.monotonic()
    for n in range(100):
        await writer.update(task, title=str(n))
        assert await reader.title(task) == str(n)
    seconds = time.monotonic() - started_at
    assert seconds < 15, f"100 updates and reads took {seconds:.1f} s"
    redis.resume()
    for _ in range(50):
        assert (await reader.title(task), await writer.title(task)) == ("99", "99")
    await wait_for_delivery(connection)
    await wait_until_cached(reader, task, redis.url)
    assert await reader.title(task) == "99"


async def test_thousand_concurrent_reads_wait_once_for_a_hanging_redis(
    start: StartInstance, redis: RedisServer
) -> None:
    reader = await start()
    task = await reader.create()
    await reader.title(task)
    redis.hang()

    async def read() -> float:
        started_at = time.monotonic()
        titles = await asyncio.gather(*(reader.title(task) for _ in range(1000)))
        assert set(titles) == {"0"}
        return time.monotonic() - started_at

    first, without_redis = await read(), await read()
    redis.resume()
    assert first < 3 * without_redis + 3, (
        f"a thousand reads took {first:.1f} s, without Redis {without_redis:.1f} s"
    )


async def test_writer_without_redis_causes_at_most_five_seconds_of_stale_reads(
    start: StartInstance, redis: RedisServer, connection: asyncpg.Connection
) -> None:
    writer, reader = (
        await start(redis_url=f"redis://127.0.0.1:{free_port()}/0", trusted=False),
        await start(),
    )
    task = await writer.create()
    longest = 0.0
    for n in range(1, 4):
        await reader.wait_until_trusted()
        await wait_until_cached(reader, task, redis.url)
        await writer.update(task, title=str(n))
        acknowledged = time.monotonic()
        while await reader.title(task) != str(n):
            assert time.monotonic() - acknowledged < 5
            await asyncio.sleep(0)
        longest = max(longest, time.monotonic() - acknowledged)
        await wait_for_delivery(connection)
        for _ in range(50):
            assert await reader.title(task) == str(n)
    print(f"longest staleness {longest:.2f} s")


async def test_reader_that_cannot_check_the_outbox_bypasses_the_cache(
    start: StartInstance, redis: RedisServer, connection: asyncpg.Connection
) -> None:
    writer, reader = (
        await start(redis_url=f"redis://127.0.0.1:{free_port()}/0", trusted=False),
        await start(),
    )
    task = await writer.create()
    await reader.title(task)
    # As if the loop of the watch hangs, or the database serves requests but not the loop.
    await reader.watch.stop()
    await writer.update(task, title="new")
    acknowledged = time.monotonic()
    while await reader.title(task) != "new":
        assert time.monotonic() - acknowledged < 5
        await asyncio.sleep(0.01)
    assert await connection.fetchval(COUNT_OUTBOX) == 1


async def test_outbox_invalidates_after_redis_fails_during_a_commit(
    start: StartInstance, redis: RedisServer, connection: asyncpg.Connection
) -> None:
    from task_service.domain.principals import ANONYMOUS
    from task_service.schemas.tasks import TaskChange
    from task_service.services.tasks import change_task
    from task_service.services.transactions import Transaction

    writer = await start()
    task = await writer.create()

    async def change(transaction: Transaction) -> None:
        await change_task(transaction, task, TaskChange(title="new"), ANONYMOUS)
        redis.kill()

    await writer.transactions.write(change)
    assert await connection.fetchval(COUNT_OUTBOX) == 1
    redis.start()
    await wait_for_delivery(connection)
    assert await writer.title(task) == "new"


async def test_read_only_redis_disables_the_cache(
    start: StartInstance, redis: RedisServer, connection: asyncpg.Connection
) -> None:
    writer, reader = await start(), await start()
    task = await writer.create()
    await reader.title(task)
    async with Redis.from_url(redis.url, protocol=2) as client:
        await client.config_set("min-replicas-to-write", "1")
        await writer.update(task, title="new")
        assert await connection.fetchval(COUNT_OUTBOX) == 1

        async def is_visible() -> bool:
            return await reader.title(task) == "new"

        await eventually("the new title", is_visible, 5)
        await client.config_set("min-replicas-to-write", "0")
    await wait_for_delivery(connection)
    await wait_until_cached(reader, task, redis.url)


async def test_full_redis_accepts_invalidations_but_no_values(
    start: StartInstance, redis: RedisServer, connection: asyncpg.Connection
) -> None:
    writer, reader = await start(), await start()
    task, other = await writer.create(), await writer.create()
    await reader.title(task)
    async with Redis.from_url(redis.url, protocol=2) as client:
        await client.config_set("maxmemory-policy", "noeviction")
        await client.config_set("maxmemory", "1")
        await writer.update(task, title="new")
        for _ in range(2):
            assert (await reader.title(task), await reader.title(other)) == ("new", "0")
        assert not await client.exists(f"tasks::{task}", f"tasks::{other}")
    assert await connection.fetchval(COUNT_OUTBOX) == 0


async def test_invalidation_is_repeated_on_a_replaced_server(
    start: StartInstance, redis: RedisServer, tmp_path: Path
) -> None:
    file = tmp_path / "redis_url"
    file.write_text(redis.url)
    settings = {"redis_url": None, "redis_url_file": file}
    writer = await start(**settings, watched=False)
    task = await writer.create()
    await writer.update(task, title="1")
    with redis_server() as other:
        file.write_text(other.url)
        reader = await start(**settings)
        token = await reader.cache.read(task)
        async with reader.transactions.read() as own:
            old = await read_row(own, task)
        await writer.update(task, title="2")
        assert isinstance(token, Missing)
        assert old is not None
        await reader.cache.fill(token, task, old)
        assert await reader.title(task) == "1"  # the writer has invalidated another server
        await writer.watch.check()
        assert await reader.title(task) == "2"


async def test_replica_is_not_used(
    start: StartInstance, redis: RedisServer, connection: asyncpg.Connection
) -> None:
    with redis_server() as other:
        async with Redis.from_url(other.url, protocol=2) as client:
            await client.replicaof("127.0.0.1", redis.port)
            writer, reader = await start(), await start(redis_url=other.url, trusted=False)
            task = await writer.create()
            for n in range(3):
                await writer.update(task, title=str(n))
                assert await reader.title(task) == str(n)
            assert not reader.cache.is_trusted
