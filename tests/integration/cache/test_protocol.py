"""The cache protocol: each interleaving in which an old version could be cached."""

import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncConnection

from task_service.api.app import create_app
from task_service.api.compat import d
from task_service.domain.principals import ANONYMOUS
from task_service.queue.claims import Bounds, claim
from task_service.schemas.tasks import NewConversation, TaskChange
from task_service.services import cached_reads, conversations
from task_service.services.legacy import unpaged_lists
from task_service.services.tasks import change_task
from task_service.services.transactions import Transaction, TransactionManager
from task_service.settings import Settings
from task_service.store import tasks as store
from task_service.store.cache.cache import Cache, Missing, NoCache
from task_service.store.database import create_engine
from tests.support.cache_instances import Instance, StartInstance, value_of
from tests.support.redis import RedisServer
from tests.support.service_settings import settings_for
from tests.support.tasks import add_worker, quiet_wakeups

pytestmark = pytest.mark.asyncio


async def miss(instance: Instance, task_id: UUID) -> Missing:
    """Return the fill token that a reader gets on a cache miss."""
    token = await instance.cache.read(task_id)
    assert isinstance(token, Missing)
    return token


async def from_database(instance: Instance, task_id: UUID) -> store.TaskRow:
    """Return the row that the reader then loads."""
    async with instance.transactions.read() as connection:
        row = await store.read_task(connection, task_id)
    assert row is not None
    return row


async def test_first_read_fills_the_cache_and_later_reads_use_it(
    start: StartInstance, keys: Redis, connection: asyncpg.Connection
) -> None:
    instance = await start()
    due = datetime.now(UTC) + timedelta(days=1)
    task = await instance.create(
        description="ü", payload={"n": 2**70}, tags=["a"], due_date=due, assigned_to="ada"
    )
    first = await instance.read(task)
    assert 595_000 < await keys.pttl(f"tasks::{task}") <= 600_000
    kept = json.loads(await value_of(keys, f"tasks::{task}"))
    assert (kept["stamp"], kept["task"]["title"]) == (1, "0")
    await connection.execute("UPDATE tasks SET title = 'changed without the cache'")
    assert await instance.read(task) == first


async def test_update_and_delete_are_visible_at_once_in_every_process(
    start: StartInstance, keys: Redis
) -> None:
    one, other = await start(), await start()
    task = await one.create()
    for change in ("1", "2", "3"):
        assert await other.read(task) is not None
        await one.update(task, title=change)
        assert not await keys.exists(f"tasks::{task}")
        assert await other.title(task) == change
    await one.delete(task)
    assert await other.read(task) is None
    erased = await one.create()
    await other.title(erased)
    await one.delete(erased, hard=True)
    assert await other.read(erased) is None
    assert not await keys.exists(f"tasks::{task}", f"tasks::{erased}")


async def test_conversation_count_is_never_stale(start: StartInstance) -> None:
    one, other = await start(), await start()
    task = await one.create()
    before = await other.read(task)
    new = [NewConversation(body="hello")]
    await one.transactions.write(lambda t: conversations.add_conversations(t, task, new, ANONYMOUS))
    after = await other.read(task)
    assert before is not None
    assert after is not None
    assert (before.conversation_count, after.conversation_count) == (0, 1)


async def test_tasks_that_workers_or_time_change_are_not_cached(
    start: StartInstance, keys: Redis, connection: asyncpg.Connection
) -> None:
    instance = await start()
    worker = await add_worker(connection)
    task = await instance.create()
    later = await instance.create(run_at=datetime.now(UTC) + timedelta(hours=1))
    await instance.read(task)
    await instance.update(task, handler="noop")
    for one in (task, later):
        await instance.read(one)
        assert not await keys.exists(f"tasks::{one}")
    assert await claim(connection, worker, Bounds(["default"]), 1, start_at_once=True)
    claimed = await instance.read(task)
    assert claimed is not None
    assert claimed.status == "processing"


async def test_task_that_becomes_manual_again_is_cached_again(
    start: StartInstance, keys: Redis
) -> None:
    instance = await start()
    task = await instance.create(handler="noop")
    await instance.read(task)
    await instance.update(task, handler=None)
    first = await instance.read(task)
    assert await keys.exists(f"tasks::{task}")
    assert first == await instance.read(task) == await from_database(instance, task)


@pytest.mark.parametrize("evicted", [[], ["tasks::{}::stamp"], ["tasks::{}", "tasks::{}::stamp"]])
async def test_slow_reader_does_not_cache_a_row_from_before_an_update(
    start: StartInstance, keys: Redis, evicted: list[str]
) -> None:
    slow, writer = await start(), await start()
    task = await slow.create()
    token, old = await miss(slow, task), await from_database(slow, task)
    await writer.update(task, title="new")
    for key in evicted:
        await keys.delete(key.format(task))
    await slow.cache.fill(token, task, old)
    assert await writer.title(task) == "new"
    await slow.cache.fill(token, task, old)
    assert await slow.title(task) == "new"


async def test_reader_whose_fill_token_expired_fills_nothing(
    start: StartInstance, keys: Redis
) -> None:
    slow = await start()
    task = await slow.create()
    token, row = await miss(slow, task), await from_database(slow, task)
    assert 0 < await keys.pttl(f"tasks::{task}::stamp") <= 10_000
    await keys.delete(f"tasks::{task}::stamp")  # as its expiry does
    await slow.cache.fill(token, task, row)
    assert not await keys.exists(f"tasks::{task}")


async def test_old_version_is_not_cached_between_tombstone_and_commit(
    start: StartInstance, keys: Redis
) -> None:
    writer, reader = await start(), await start()
    task = await writer.create()
    await reader.title(task)

    async def change(transaction: Transaction) -> None:
        await change_title(transaction, task)
        assert await reader.title(task) == "0"
        assert not await keys.exists(f"tasks::{task}")

    await writer.transactions.write(change)
    assert await reader.title(task) == "new"


async def change_title(transaction: Transaction, task_id: UUID) -> None:
    """Change the title in an open transaction."""
    await change_task(transaction, task_id, TaskChange(title="new"), ANONYMOUS)


@pytest.mark.parametrize("fill_time", ["before the commit", "after the commit"])
async def test_eviction_of_a_tombstone_before_the_commit_leaves_nothing_stale(
    start: StartInstance, keys: Redis, fill_time: str
) -> None:
    writer, reader = await start(), await start()
    task = await writer.create()
    reads: list[tuple[Missing, store.TaskRow]] = []

    async def change(transaction: Transaction) -> None:
        await change_title(transaction, task)
        await keys.flushall()
        reads.append((await miss(reader, task), await from_database(reader, task)))
        if fill_time == "before the commit":
            await reader.cache.fill(*_fill_arguments(reads[0], task))
            assert await keys.exists(f"tasks::{task}")

    await writer.transactions.write(change)
    if fill_time == "after the commit":
        await reader.cache.fill(*_fill_arguments(reads[0], task))
    assert await reader.title(task) == "new"


def _fill_arguments(
    reads: tuple[Missing, store.TaskRow], task: UUID
) -> tuple[Missing, UUID, store.TaskRow]:
    return reads[0], task, reads[1]


async def test_writer_that_dies_after_its_commit_leaves_nothing_stale(
    start: StartInstance,
) -> None:
    writer, reader = await start(), await start()
    task = await writer.create()
    assert await reader.title(task) == "0"
    async with writer.transactions.begin() as transaction:
        await change_title(transaction, task)  # without `write`, which would invalidate again
    assert await reader.title(task) == "new"


async def test_rolled_back_change_leaves_the_old_version(
    start: StartInstance,
) -> None:
    writer, reader = await start(), await start()
    task = await writer.create()
    await reader.title(task)

    async def change(transaction: Transaction) -> None:
        await change_title(transaction, task)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await writer.transactions.write(change)
    assert await reader.title(task) == "0"
    await writer.update(task, title="1")
    assert await reader.title(task) == "1"


async def test_version_of_a_tombstone_never_decreases(start: StartInstance, keys: Redis) -> None:
    instance = await start()
    task = await instance.create()
    for stamp in (9, 5):
        async with instance.transactions.engine.begin() as connection:
            await instance.cache.forget(connection, task, stamp)
    assert (await value_of(keys, f"tasks::{task}::stamp")).startswith(b"gone:9:")
    token = await miss(instance, task)
    await instance.cache.fill(token, task, await from_database(instance, task))
    assert not await keys.exists(f"tasks::{task}")


async def test_day_of_the_log_is_cached_until_the_log_changes(
    start: StartInstance, connection: asyncpg.Connection
) -> None:
    one, other = await start(), await start()
    task = await one.create()
    insertion = "INSERT INTO daily_log (id, date, task_id, title, status) VALUES ($1, '2026-01-01', $1, 'a', 'pending')"
    await connection.execute(insertion, task)
    reads = 0

    async def make(reader: AsyncConnection) -> bytes:
        nonlocal reads
        reads += 1
        token = await reader.exec_driver_sql(
            "SELECT count(*) FROM daily_log WHERE date = '2026-01-01'"
        )
        return str(token.scalar()).encode()

    async def read() -> list[bytes]:
        return [
            await cached_reads.read_day(instance.transactions, "2026-01-01", make)
            for instance in (one, other, one)
        ]

    assert (await read(), reads) == ([b"1"] * 3, 1)
    await other.delete(task, hard=True)
    assert (await read(), reads) == ([b"0"] * 3, 2)


async def test_day_read_before_a_load_is_not_cached_after_it(start: StartInstance) -> None:
    loader, reader = await start(), await start()

    async def load(transaction: Transaction) -> None:
        await loader.cache.forget_daily_log(transaction.sql)
        inside = await reader.cache.read_day("d")
        assert isinstance(inside, Missing)
        await reader.cache.fill_day(inside, "d", b"old")
        assert isinstance(await reader.cache.read_day("d"), Missing)

    before = await reader.cache.read_day("d")
    assert isinstance(before, Missing)
    await loader.transactions.write(load)
    await reader.cache.fill_day(before, "d", b"old")
    after = await reader.cache.read_day("d")
    assert isinstance(after, Missing)
    await reader.cache.fill_day(after, "d", b"new")
    assert await loader.cache.read_day("d") == b"new"


def client_of(instance: Instance) -> httpx.AsyncClient:
    """Return a client of an application that uses the instance's transactions and cache."""
    app = create_app(instance.transactions.settings, instance.transactions.engine, quiet_wakeups())
    app.state.transactions = instance.transactions
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service")


FILL_DAY = """
    WITH made AS (
        INSERT INTO tasks (id, title, status) SELECT gen_random_uuid(), 'task ' || n, 'pending'
        FROM generate_series(1, $2::integer) AS n RETURNING id, title
    )
    INSERT INTO daily_log (id, date, task_id, title, status)
    SELECT id, $1, id, title, 'pending' FROM made ORDER BY title
"""


async def list_titles(client: httpx.AsyncClient, day: date) -> list[str]:
    """Return the titles that service D lists for a day."""
    response = await client.get("/compat/d/tasks", params={"date": str(day)})
    assert response.status_code == 200, response.text
    return [entry["title"] for entry in response.json()]


async def test_day_that_service_d_has_listed_is_read_from_the_cache(
    start: StartInstance, connection: asyncpg.Connection
) -> None:
    day, other = date(2026, 1, 1), date(2026, 1, 2)
    async with client_of(await start()) as one, client_of(await start()) as two:
        await connection.execute(FILL_DAY, day, 2)
        assert await list_titles(one, day) == ["task 1", "task 2"]
        await connection.execute("UPDATE daily_log SET title = 'changed without the cache'")
        for client in (one, two):
            assert await list_titles(client, day) == ["task 1", "task 2"]
        await connection.execute(FILL_DAY, other, 1)
        assert await list_titles(two, other) == ["task 1"]


@pytest.mark.parametrize("count", [0, 3, 4, 5, 9])
async def test_day_that_is_too_long_to_cache_is_listed_completely(
    start: StartInstance,
    keys: Redis,
    connection: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
    count: int,
) -> None:
    monkeypatch.setattr(d, "CACHED_ENTRIES", 4)
    monkeypatch.setattr(unpaged_lists, "CHUNK", 2)
    day = date(2026, 1, 1)
    await connection.execute(FILL_DAY, day, count)
    expected = [f"task {n}" for n in range(1, count + 1)]
    async with client_of(await start()) as client:
        for _ in range(2):
            assert await list_titles(client, day) == expected
    kept: Any = await keys.get(f"daily_log::d:{day}")
    assert (b"task 1" in kept) == (0 < count <= 4)


async def test_host_and_port_configure_cache_limits_and_status(
    start: StartInstance, redis: RedisServer, keys: Redis
) -> None:
    settings = {"redis_url": None, "redis_host": "127.0.0.1", "redis_port": redis.port}
    instance = await start(rate_limit_read="100/hour", **settings)
    task = await instance.create()
    await instance.title(task)
    assert await keys.exists(f"tasks::{task}")
    async with client_of(instance) as client:
        assert (await client.get("/status")).json()["cache"] == "configured"
    assert await keys.keys("*task-service:limits*")


async def test_credentials_are_reloaded_after_an_authentication_error(
    start: StartInstance, redis: RedisServer, keys: Redis, tmp_path: Path
) -> None:
    file = tmp_path / "redis_url"
    file.write_text(redis.url)
    instance = await start(redis_url=None, redis_url_file=file)
    task = await instance.create()
    await keys.config_set("requirepass", "secret")
    file.write_text(redis.url.replace("//", "//:secret@"))
    await keys.auth("secret")
    await keys.client_kill_filter(_type="normal", skipme=True)
    await instance.wait_until_trusted()
    await instance.title(task)
    assert await keys.exists(f"tasks::{task}")


async def test_cache_is_disabled_without_redis(database: str) -> None:
    settings: Settings = settings_for(database)
    engine = create_engine(settings)
    transactions = TransactionManager(settings, engine, quiet_wakeups())
    assert isinstance(transactions.cache, NoCache)
    assert not isinstance(transactions.cache, Cache)
    await engine.dispose()
