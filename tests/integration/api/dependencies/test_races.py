"""Races of ends with creates and with each other."""

import asyncio
from uuid import UUID

import asyncpg
import httpx
import pytest

from task_service.domain.outcomes import Outcome
from task_service.queue import dependencies
from task_service.queue.dependencies import resolve_dependents
from task_service.queue.entries import Entry, enqueue
from task_service.queue.results import Finished, finish_batch
from tests.support.dependencies import Connect, FakeWorker, create_waiter, queue_state
from tests.support.locks import wait_for_blocked_sessions
from tests.support.task_api import TASKS, create_task
from tests.support.tasks import quiet_wakeups

pytestmark = pytest.mark.asyncio


@pytest.mark.parametrize("commits", [True, False])
async def test_create_waits_for_an_uncommitted_end(
    client: httpx.AsyncClient,
    connection: asyncpg.Connection,
    connect: Connect,
    worker: FakeWorker,
    commits: bool,
) -> None:
    need = await create_waiter(client)
    await create_waiter(client, need)
    await worker.claim()
    other = await connect()
    transaction = other.transaction()
    await transaction.start()
    held = worker.held[need]
    assert not (
        await finish_batch(
            other, worker.id, [Finished(held.task_id, held.fence, Outcome.COMPLETED)]
        )
    ).lost
    creates = asyncio.create_task(create_waiter(client, need))
    await wait_for_blocked_sessions(connection, 1)
    await (transaction.commit() if commits else transaction.rollback())
    assert await queue_state(connection, await creates) == ("ready" if commits else "blocked")
    await resolve_dependents(connection, [UUID(need)])


async def test_end_waits_for_an_uncommitted_create_and_sees_it(
    client: httpx.AsyncClient,
    connection: asyncpg.Connection,
    connect: Connect,
    worker: FakeWorker,
) -> None:
    need, task = await create_waiter(client), await create_waiter(client)
    await worker.claim()
    del worker.held[task]
    other, ender = await connect(), await connect()
    await connection.execute(
        "UPDATE queue SET state = 'ready', worker_id = NULL, claimed_at = NULL, fence = 0 WHERE task_id = $1",
        task,
    )
    transaction = other.transaction()
    await transaction.start()
    assert not await dependencies.add_needs(
        other, [dependencies.Need(UUID(task), UUID(need), cancels=True)]
    )
    held = worker.held[need]
    ends = asyncio.create_task(
        finish_batch(ender, worker.id, [Finished(held.task_id, held.fence, Outcome.COMPLETED)])
    )
    await wait_for_blocked_sessions(connection, 1)
    await transaction.commit()
    ended = await ends
    assert ended.awaited == [UUID(need)]
    assert await queue_state(connection, task) == "blocked"
    await resolve_dependents(ender, ended.awaited)
    assert await queue_state(connection, task) == "ready"


@pytest.mark.parametrize("way", ["status", "erase"])
async def test_user_request_that_ends_a_task_waits_for_an_uncommitted_create(
    client: httpx.AsyncClient, connection: asyncpg.Connection, connect: Connect, way: str
) -> None:
    need, task = (await create_task(client))["id"], await create_waiter(client)
    other = await connect()
    transaction = other.transaction()
    await transaction.start()
    assert not await dependencies.add_needs(
        other, [dependencies.Need(UUID(task), UUID(need), cancels=False)]
    )
    if way == "status":
        ends = asyncio.create_task(client.patch(f"{TASKS}/{need}", json={"status": "completed"}))
    else:
        ends = asyncio.create_task(client.delete(f"{TASKS}/{need}", params={"hard": True}))
    await wait_for_blocked_sessions(connection, 1)
    await transaction.commit()
    assert (await ends).status_code < 300
    await dependencies.sweep(connection, everything=False)
    assert await queue_state(connection, task) == "ready"


async def test_create_waits_for_a_task_that_is_being_reopened(
    client: httpx.AsyncClient,
    connection: asyncpg.Connection,
    connect: Connect,
    worker: FakeWorker,
) -> None:
    need = await create_waiter(client)
    await worker.claim()
    await worker.end(need, Outcome.FAILED)
    other = await connect()
    transaction = other.transaction()
    await transaction.start()
    await other.execute("SELECT FROM tasks WHERE id = $1 FOR NO KEY UPDATE", need)
    await other.execute("UPDATE runs SET final = false, reopened = true WHERE task_id = $1", need)
    entry = Entry(UUID(need), "default", 2, None, 5, None, "noop", fence=1)
    await enqueue(other, [entry], quiet_wakeups())
    await dependencies.mark_awaited(other, UUID(need))
    creates = asyncio.create_task(create_waiter(client, need))
    await wait_for_blocked_sessions(connection, 1)
    await transaction.commit()
    task = await creates
    assert await worker.claim() == {need}
    await worker.end(need)
    assert await queue_state(connection, task) == "ready"


async def test_second_of_two_concurrent_ends_releases_the_task(
    client: httpx.AsyncClient,
    connection: asyncpg.Connection,
    connect: Connect,
    worker: FakeWorker,
) -> None:
    needs = [await create_waiter(client), await create_waiter(client)]
    task = await create_waiter(client, *needs)
    await worker.claim()
    other = await connect()
    await worker.end(needs[0], settles=False)
    transaction = other.transaction()
    await transaction.start()
    await resolve_dependents(other, [UUID(needs[0])])
    await worker.end(needs[1], settles=False)
    second = asyncio.create_task(resolve_dependents(connection, [UUID(needs[1])]))
    watch = await connect()
    await wait_for_blocked_sessions(watch, 1)
    await transaction.commit()
    await second
    assert await queue_state(connection, task) == "ready"


async def test_second_release_of_the_same_task_changes_nothing(
    client: httpx.AsyncClient,
    connection: asyncpg.Connection,
    connect: Connect,
    worker: FakeWorker,
) -> None:
    need = await create_waiter(client)
    task = await create_waiter(client, need)
    await worker.claim()
    await worker.end(need, settles=False)
    other, watch = await connect(), await connect()
    transaction = other.transaction()
    await transaction.start()
    await resolve_dependents(other, [UUID(need)])
    claimed = "UPDATE queue SET state = 'running', worker_id = $2, fence = 1, attempt = 1 WHERE task_id = $1"
    await other.execute(claimed, task, worker.id)
    second = asyncio.create_task(resolve_dependents(connection, [UUID(need)]))
    await wait_for_blocked_sessions(watch, 1)
    await transaction.commit()
    await second
    assert await queue_state(connection, task) == "running"


async def test_many_concurrent_ends_and_creates_leave_no_task_blocked(
    client: httpx.AsyncClient,
    connection: asyncpg.Connection,
    connect: Connect,
    worker: FakeWorker,
) -> None:
    needs = [await create_waiter(client) for _ in range(20)]
    await worker.claim()
    connections = [await connect() for _ in range(4)]
    held = [worker.held[need] for need in needs]

    async def ends(number: int) -> None:
        for claimed in held[number::4]:
            finished = Finished(claimed.task_id, claimed.fence, Outcome.COMPLETED)
            ended = await finish_batch(connections[number], worker.id, [finished])
            await resolve_dependents(connections[number], ended.awaited)

    creates = (create_waiter(client, *needs[n % 7 :: 3]) for n in range(30))
    creating = asyncio.gather(*creates)
    await asyncio.gather(*map(ends, range(4)))
    assert {await queue_state(connection, task) for task in await creating} == {"ready"}
