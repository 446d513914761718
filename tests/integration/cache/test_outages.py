"""Redis dies, hangs, restarts with an old dump, or is cut off from a writer: what readers see, and how fast."""

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
WAITING = "SELECT count(*) FROM cache_outbox"
TIMEOUT_SECONDS = 0.25


async def delivered(connection: asyncpg.Connection) -> None:
    """Wait until nothing is left in the outbox."""

    async def empty() -> bool:
        return not await connection.fetchval(WAITING)

    await eventually("delivery of the outbox", empty)


async def kept_again(instance: Instance, task: UUID, url: str) -> None:
    """Wait until reads fill the cache again."""
    async with Redis.from_url(url, protocol=2) as client:

        async def kept() -> bool:
            await instance.read(task)
            return bool(await client.exists(f"tasks::{task}"))

        await eventually("a fill", kept)


async def test_a_value_in_an_old_dump_is_not_believed(
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


async def test_a_fill_that_began_before_a_restart_is_not_kept_after_it(
    start: StartInstance, dumping_redis: RedisServer
) -> None:
    writer, slow = (
        await start(redis_url=dumping_redis.url),
        await start(redis_url=dumping_redis.url),
    )
    task = await writer.create()
    found = await slow.cache.read(task)
    old = await writer.read(task)
    async with Redis.from_url(dumping_redis.url, protocol=2) as client:
        await client.delete(f"tasks::{task}")
        await client.save()  # with the mark that the slow reader has found
    await writer.update(task, title="new")
    dumping_redis.kill()
    dumping_redis.start()
    assert found is not None
    assert old is not None
    await slow.cache.fill(found, task, old)  # type: ignore[arg-type]
    await slow.wait_until_trusted()
    assert await slow.title(task) == "new"


async def test_while_redis_is_dead_reads_and_updates_go_on_and_it_is_used_when_it_is_back(
    start: StartInstance, redis: RedisServer, connection: asyncpg.Connection
) -> None:
    writer, reader = await start(), await start()
    task = await writer.create()
    await reader.title(task)
    redis.kill()
    begun = time.monotonic()
    for n in range(1, 21):
        await writer.update(task, title=str(n))
        assert (await writer.title(task), await reader.title(task)) == (str(n), str(n))
    assert time.monotonic() - begun < 5
    assert await connection.fetchval(WAITING) == 20
    redis.start()
    await delivered(connection)
    await kept_again(reader, task, redis.url)
    assert await reader.title(task) == "20"


async def test_a_redis_that_hangs_slows_only_the_first_reads_and_what_it_holds_is_not_old_when_it_goes_on(
    start: StartInstance, redis: RedisServer, connection: asyncpg.Connection
) -> None:
    writer, reader = await start(), await start()
    task = await writer.create()
    await reader.title(task)
    redis.hang()
    begun = time.monotonic()
    assert await reader.title(task) == "0"
    assert time.monotonic() - begun < TIMEOUT_SECONDS + 0.5
    begun = time.monotonic()
    for n in range(100):
        await writer.update(task, title=str(n))
        assert await reader.title(task) == str(n)
    taken = time.monotonic() - begun
    assert taken < 15, f"100 updates and reads took {taken:.1f} s"
    redis.resume()
    for _ in range(50):
        assert (await reader.title(task), await writer.title(task)) == ("99", "99")
    await delivered(connection)
    await kept_again(reader, task, redis.url)
    assert await reader.title(task) == "99"


async def test_a_thousand_reads_at_once_of_a_hanging_redis_wait_for_it_once(
    start: StartInstance, redis: RedisServer
) -> None:
    reader = await start()
    task = await reader.create()
    await reader.title(task)
    redis.hang()

    async def read() -> float:
        begun = time.monotonic()
        titles = await asyncio.gather(*(reader.title(task) for _ in range(1000)))
        assert set(titles) == {"0"}
        return time.monotonic() - begun

    first, without = await read(), await read()
    redis.resume()
    assert first < 3 * without + 3, (
        f"a thousand reads took {first:.1f} s, without Redis {without:.1f} s"
    )


async def test_a_writer_alone_that_cannot_reach_redis_makes_reads_old_for_five_seconds_at_most(
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
        await kept_again(reader, task, redis.url)
        await writer.update(task, title=str(n))
        acknowledged = time.monotonic()
        while await reader.title(task) != str(n):
            assert time.monotonic() - acknowledged < 5
            await asyncio.sleep(0)
        longest = max(longest, time.monotonic() - acknowledged)
        await delivered(connection)
        for _ in range(50):
            assert await reader.title(task) == str(n)
    print(f"longest staleness {longest:.2f} s")


async def test_a_reader_that_cannot_look_into_the_outbox_passes_the_cache_by(
    start: StartInstance, redis: RedisServer, connection: asyncpg.Connection
) -> None:
    writer, reader = (
        await start(redis_url=f"redis://127.0.0.1:{free_port()}/0", trusted=False),
        await start(),
    )
    task = await writer.create()
    await reader.title(task)
    await (
        reader.watch.stop()
    )  # as when its loop hangs, or the database answers requests but not the loop
    await writer.update(task, title="new")
    acknowledged = time.monotonic()
    while await reader.title(task) != "new":
        assert time.monotonic() - acknowledged < 5
        await asyncio.sleep(0.01)
    assert await connection.fetchval(WAITING) == 1


async def test_redis_that_goes_between_a_change_and_its_commit_is_told_by_the_outbox(
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
    assert await connection.fetchval(WAITING) == 1
    redis.start()
    await delivered(connection)
    assert await writer.title(task) == "new"


async def test_a_redis_that_refuses_to_write_turns_the_cache_off_and_breaks_nothing(
    start: StartInstance, redis: RedisServer, connection: asyncpg.Connection
) -> None:
    writer, reader = await start(), await start()
    task = await writer.create()
    await reader.title(task)
    async with Redis.from_url(redis.url, protocol=2) as client:
        await client.config_set("min-replicas-to-write", "1")
        await writer.update(task, title="new")
        assert await connection.fetchval(WAITING) == 1

        async def seen() -> bool:
            return await reader.title(task) == "new"

        await eventually("the new title", seen, 5)
        await client.config_set("min-replicas-to-write", "0")
    await delivered(connection)
    await kept_again(reader, task, redis.url)


async def test_a_full_redis_keeps_nothing_more_but_forgets(
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
    assert await connection.fetchval(WAITING) == 0


async def test_what_was_told_to_a_server_that_was_already_replaced_is_told_to_the_next_one(
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
        found = await reader.cache.read(task)
        async with reader.transactions.read() as own:
            old = await read_row(own, task)
        await writer.update(task, title="2")
        assert isinstance(found, Missing)
        assert old is not None
        await reader.cache.fill(found, task, old)
        assert await reader.title(task) == "1"  # the writer has reached a server, but not this one
        await writer.watch.look()
        assert await reader.title(task) == "2"


async def test_a_replica_is_not_used(
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
