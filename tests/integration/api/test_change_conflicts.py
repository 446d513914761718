"""Conflicting changes of one task: ETags, claims, locks and deadlocks."""

import asyncio
from uuid import UUID

import asyncpg
import httpx
import pytest

from task_service.domain.outcomes import Outcome
from task_service.queue.claims import Bounds, claim
from task_service.queue.entries import Entry, enqueue
from task_service.queue.results import Finished, finish
from tests.support.database_rows import queue_row
from tests.support.task_api import TASKS, ClaimTask, create_task
from tests.support.tasks import add_worker, quiet_wakeups
from tests.support.waiting import eventually

pytestmark = pytest.mark.asyncio


async def test_stale_etag_is_rejected_with_the_current_one(client: httpx.AsyncClient) -> None:
    task = await create_task(client)
    url = f"{TASKS}/{task['id']}"
    first = (await client.get(url)).headers["etag"]
    second = (await client.patch(url, json={"title": "b"}, headers={"If-Match": first})).headers[
        "etag"
    ]
    for response in (
        await client.patch(url, json={"title": "c"}, headers={"If-Match": first}),
        await client.delete(url, headers={"If-Match": first}),
        await client.post(f"{url}:cancel", headers={"If-Match": first}),
    ):
        assert (response.status_code, response.json()["code"], response.json()["current_etag"]) == (
            412,
            "stale_version",
            second,
        )
    assert (
        await client.patch(url, json={"title": "c"}, headers={"If-Match": f'"x", {second}'})
    ).status_code == 200
    assert (
        await client.patch(url, json={"title": "d"}, headers={"If-Match": "*"})
    ).status_code == 200


async def test_claim_makes_an_etag_stale_and_a_new_conversation_does_not(
    client: httpx.AsyncClient, connection: asyncpg.Connection, claim_task: ClaimTask
) -> None:
    task = await create_task(client, handler="noop")
    url = f"{TASKS}/{task['id']}"
    etag = (await client.get(url)).headers["etag"]
    await client.post(f"{url}/conversations", json={"body": 1})
    assert (
        await client.patch(url, json={"title": "a task"}, headers={"If-Match": etag})
    ).status_code == 200
    await claim_task(task["id"])
    assert (await client.post(f"{url}:cancel", headers={"If-Match": etag})).status_code == 412


async def test_update_restarts_when_the_task_enters_the_queue_concurrently(
    client: httpx.AsyncClient, connection: asyncpg.Connection, database: str
) -> None:
    task = await create_task(client, handler="noop", status="completed")
    key = UUID(task["id"])
    other = await asyncpg.connect(database)
    async with other.transaction():  # reopens the task and has not committed yet
        await other.execute("SELECT FROM tasks WHERE id = $1 FOR UPDATE", key)
        change = asyncio.create_task(
            client.patch(f"{TASKS}/{task['id']}", json={"status": "in_progress"})
        )

        async def waits() -> bool:
            return bool(
                await connection.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted")
            )

        await eventually("the change waits for the task", waits)
        await other.execute("UPDATE tasks SET status = NULL WHERE id = $1", key)
        await enqueue(other, [Entry(key, "default", 2, None, 5, None, "noop")], quiet_wakeups())
    response = await change
    await other.close()
    assert (response.status_code, response.json()["status"]) == (200, "in_progress")
    assert await queue_row(connection) is None


async def test_update_is_retried_after_a_deadlock(
    client: httpx.AsyncClient, connection: asyncpg.Connection, database: str
) -> None:
    task = await create_task(client, handler="noop")
    key = UUID(task["id"])
    other = await asyncpg.connect(database)
    await other.execute("SET deadlock_timeout = '1h'")  # PostgreSQL aborts the request
    async with other.transaction():  # wrong lock order: the task before its queue row
        await other.execute("SELECT FROM tasks WHERE id = $1 FOR UPDATE", key)
        change = asyncio.create_task(
            client.patch(f"{TASKS}/{task['id']}", json={"status": "in_progress"})
        )

        async def waits() -> bool:
            return bool(
                await connection.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted")
            )

        await eventually("the change waits for the task", waits)
        await other.execute("SELECT FROM queue WHERE task_id = $1 FOR UPDATE", key)
    response = await change
    await other.close()
    assert (response.status_code, response.json()["status"]) == (200, "in_progress")


async def test_concurrent_users_and_workers_keep_the_database_consistent(
    client: httpx.AsyncClient, connection: asyncpg.Connection, database: str
) -> None:
    ids = [(await create_task(client, handler="noop"))["id"] for _ in range(6)]
    done = asyncio.Event()

    async def work() -> int:
        own = await asyncpg.connect(database)
        worker, finished = await add_worker(own), 0
        while not done.is_set():
            claims = await claim(own, worker, Bounds(["default"]), 3, start_at_once=True)
            finished += len(
                await finish(
                    own, worker, [Finished(c.task_id, c.fence, Outcome.FAILED) for c in claims]
                )
            )
        await own.close()
        return finished

    async def interfere(key: str) -> None:
        for n in range(12):
            for path, body in (
                (":retry", None),
                (":cancel", None),
                ("", {"priority": ["low", "high"][n % 2]}),
            ):
                url = f"{TASKS}/{key}{path}"
                response = await (client.post(url) if path else client.patch(url, json=body))
                assert response.status_code in (200, 202, 409), response.text

    workers = [asyncio.create_task(work()) for _ in range(2)]
    await asyncio.gather(*(interfere(key) for key in ids for _ in range(2)))
    done.set()
    assert sum(await asyncio.gather(*workers)) > 0
