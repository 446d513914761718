"""The order in which tasks and their dependents run."""

import asyncpg
import httpx
import pytest

from task_service.queue import dependencies
from tests.support.dependencies import FakeWorker, create_waiter, queue_state, read_task
from tests.support.task_api import TASKS, create_task, post_batch

pytestmark = pytest.mark.asyncio


async def test_task_waits_for_everything_it_needs(
    client: httpx.AsyncClient, connection: asyncpg.Connection, worker: FakeWorker
) -> None:
    needs = [await create_waiter(client) for _ in range(3)]
    task = await create_waiter(client, *needs, needs[0])
    assert (await read_task(client, task))["waits_for"] == sorted(needs)
    assert (await read_task(client, task))["status"] == "pending"
    assert await worker.claim() == set(needs)
    for number, need in enumerate(needs, 1):
        assert await worker.claim() == set()
        await worker.end(need)
        assert (await read_task(client, task))["waits_for"] == sorted(needs[number:])
    assert await worker.claim() == {task}
    assert (await read_task(client, task))["status"] == "processing"


async def test_fan_out_and_fan_in(client: httpx.AsyncClient, worker: FakeWorker) -> None:
    first = await create_waiter(client)
    response = await post_batch(
        client, [{"title": "part", "handler": "noop", "needs": [first]}] * 20
    )
    parts = {str(t["id"]) for t in response.json()["items"]}
    last = await create_waiter(client, *parts)
    assert await worker.claim() == {first}
    await worker.end(first)
    assert await worker.claim() == parts
    for part in parts:
        assert await worker.claim() == set()
        await worker.end(part)
    assert await worker.claim() == {last}


async def test_task_does_not_wait_for_ended_tasks(
    client: httpx.AsyncClient, connection: asyncpg.Connection, worker: FakeWorker
) -> None:
    ended = await create_waiter(client)
    await worker.claim()
    await worker.end(ended)
    done = (await create_task(client, status="completed"))["id"]
    assert await queue_state(connection, await create_waiter(client, ended, done)) == "ready"


async def test_task_waits_for_a_manual_task_until_it_is_completed(
    client: httpx.AsyncClient, connection: asyncpg.Connection
) -> None:
    person = (await create_task(client))["id"]
    task = await create_waiter(client, person)
    for status, expected in (("in_progress", "blocked"), ("completed", "ready")):
        await client.patch(f"{TASKS}/{person}", json={"status": status})
        await dependencies.sweep(connection, everything=False)
        assert await queue_state(connection, task) == expected


async def test_task_waits_for_a_manual_task_that_gets_a_handler(
    client: httpx.AsyncClient, connection: asyncpg.Connection, worker: FakeWorker
) -> None:
    person = (await create_task(client))["id"]
    task = await create_waiter(client, person)
    await client.patch(f"{TASKS}/{person}", json={"handler": "noop"})
    assert await worker.claim() == {person}
    await worker.end(person)
    assert await worker.claim() == {task}


async def test_task_does_not_run_before_its_own_run_at(
    client: httpx.AsyncClient, connection: asyncpg.Connection, worker: FakeWorker
) -> None:
    need = await create_waiter(client)
    later = await create_waiter(client, need, run_at="2999-01-01T00:00:00Z")
    await worker.claim()
    await worker.end(need)
    assert await queue_state(connection, later) == "ready"
    assert (await read_task(client, later))["status"] == "scheduled"


async def test_retry_of_a_needed_task_does_not_release_its_dependents(
    client: httpx.AsyncClient, connection: asyncpg.Connection
) -> None:
    need = await create_waiter(client)
    task = await create_waiter(client, need)
    await client.patch(
        f"{TASKS}/{need}", json={"priority": "low", "run_at": "2999-01-01T00:00:00Z"}
    )
    await client.post(f"{TASKS}/{need}:retry")
    await dependencies.sweep(connection, everything=True)
    assert await queue_state(connection, task) == "blocked"
