"""Requests on tasks that wait, and dependents that only a sweep releases."""

import asyncpg
import httpx
import pytest

from task_service.domain.outcomes import Outcome
from task_service.queue import dependencies
from task_service.queue.limits import Admission, admit
from task_service.queue.statements import statement
from tests.support.dependencies import FakeWorker, create_waiter, queue_state, read_task
from tests.support.task_api import TASKS, create_task

pytestmark = pytest.mark.asyncio


async def test_blocked_task_can_be_changed_and_stays_blocked(
    client: httpx.AsyncClient, connection: asyncpg.Connection, worker: FakeWorker
) -> None:
    need = await create_waiter(client)
    task = await create_waiter(client, need)
    await client.patch(f"{TASKS}/{task}", json={"priority": "urgent"})
    assert await queue_state(connection, task) == "blocked"
    await worker.claim()
    await worker.end(need)
    assert await worker.claim() == {task}


@pytest.mark.parametrize("again", [False, True])
async def test_blocked_task_that_is_cancelled_waits_for_nothing(
    client: httpx.AsyncClient,
    connection: asyncpg.Connection,
    worker: FakeWorker,
    again: bool,
) -> None:
    need = await create_waiter(client)
    task = await create_waiter(client, need)
    await client.post(f"{TASKS}/{task}:cancel")
    if again:
        await client.post(f"{TASKS}/{task}:retry")
    assert (await read_task(client, task))["waits_for"] == []
    assert await worker.claim() == ({need, task} if again else {need})
    await worker.end(need, Outcome.FAILED)
    assert (await read_task(client, task))["status"] == ("processing" if again else "cancelled")
    assert await connection.fetchval("SELECT count(*) FROM dependencies") == 0


async def test_limit_admits_a_task_only_after_its_dependencies_ended(
    client: httpx.AsyncClient, connection: asyncpg.Connection, worker: FakeWorker
) -> None:
    assert (await client.put("/api/v1/limits/key/tenant", json={"concurrency": 1})).is_success
    need = await create_waiter(client)
    task = await create_waiter(client, need, limit_key="tenant")
    assert await admit(connection) == Admission(0, None)
    assert (await client.patch(f"{TASKS}/{task}", json={"priority": "urgent"})).is_success
    assert await admit(connection) == Admission(0, None)
    assert await queue_state(connection, task) == "blocked"
    await worker.claim()
    await worker.end(need)
    assert await queue_state(connection, task) == "blocked"
    assert await admit(connection) == Admission(1, None)
    assert await worker.claim() == {task}
    await worker.end(task)


async def test_dependencies_of_a_cancelled_task_are_removed(
    client: httpx.AsyncClient, connection: asyncpg.Connection
) -> None:
    task = await create_waiter(client, await create_waiter(client))
    await client.post(f"{TASKS}/{task}:cancel")
    await dependencies.sweep(connection, everything=True)
    assert await connection.fetchval("SELECT count(*) FROM dependencies") == 0


async def test_queue_figures_count_blocked_tasks(client: httpx.AsyncClient) -> None:
    need = await create_waiter(client)
    for _ in range(2):
        await create_waiter(client, need)
    [queue] = (await client.get("/api/v1/queues")).json()["queues"]
    assert (queue["ready"], queue["blocked"]) == (1, 2)


async def test_sweep_settles_ends_of_workers_that_died_before_settling(
    client: httpx.AsyncClient, connection: asyncpg.Connection, worker: FakeWorker
) -> None:
    need = await create_waiter(client)
    free, bad = await create_waiter(client, need), await create_waiter(client)
    cancelled = await create_waiter(client, bad)
    then = await create_waiter(client, cancelled)
    await worker.claim()
    await worker.end(need, settles=False)
    await worker.end(bad, Outcome.FAILED, settles=False)
    await dependencies.sweep(connection, everything=False)
    assert await queue_state(connection, free) == "blocked"
    await dependencies.sweep(connection, everything=True)
    assert await queue_state(connection, free) == "ready"
    assert [(await read_task(client, t))["status"] for t in (cancelled, then)] == [
        "cancelled",
        "cancelled",
    ]


async def test_sweep_leaves_open_dependencies_alone(
    client: httpx.AsyncClient, connection: asyncpg.Connection
) -> None:
    tasks = [
        await create_waiter(client, (await create_task(client, handler=handler))["id"])
        for handler in (None, "noop")
    ]
    assert not await connection.fetch(statement("list_unresolved_dependents"), 10)
    await dependencies.sweep(connection, everything=True)
    assert [await queue_state(connection, task) for task in tasks] == ["blocked", "blocked"]
