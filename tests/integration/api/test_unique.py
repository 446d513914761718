"""Unique tasks: while a key is held, only one task with it exists."""

import asyncio
from typing import Any

import asyncpg
import httpx
import pytest

from task_service.domain.outcomes import Outcome
from task_service.enqueue import enqueue_async
from task_service.loops.maintenance import Maintenance
from task_service.queue.results import GivenBack, give_back
from task_service.store.unique import prune_unique_keys
from tests.support.database_rows import count_rows
from tests.support.problems import check_problem
from tests.support.service_settings import settings_for
from tests.support.task_api import TASKS, ClaimTask
from tests.support.unique_keys import create_new, finish_claim, get_existing, post_unique
from tests.support.waiting import eventually

pytestmark = pytest.mark.asyncio


DAY = 86_400


class TestWhileOpen:
    """Keys without `unique_seconds`."""

    async def test_second_create_returns_the_existing_task_unchanged(
        self, client: httpx.AsyncClient, connection: asyncpg.Connection
    ) -> None:
        first = await post_unique(client, title="the first", tags=["a"])
        again = await post_unique(
            client, title="the second", priority="urgent", conversations=[{"body": 1}]
        )
        assert (first.status_code, again.status_code) == (201, 200)
        assert again.json() == first.json()
        assert (
            again.headers["location"]
            == first.headers["location"]
            == f"{TASKS}/{first.json()['id']}"
        )
        assert again.headers["etag"] == first.headers["etag"]
        assert [
            await connection.fetchval(f"SELECT count(*) FROM {table}")
            for table in ("tasks", "queue", "task_history", "conversations")
        ] == [1, 1, 1, 0]

    async def test_other_keys_and_no_key_create_new_tasks(self, client: httpx.AsyncClient) -> None:
        ids = [
            await create_new(client),
            await create_new(client, "K"),
            await create_new(client, "k2"),
        ]
        ids += [(await client.post(TASKS, json={"title": "a"})).json()["id"] for _ in range(2)]
        assert len(set(ids)) == 5

    @pytest.mark.parametrize("before", ["nothing", "a finished task"])
    async def test_one_of_twenty_concurrent_creates_creates_the_task(
        self, client: httpx.AsyncClient, connection: asyncpg.Connection, before: str
    ) -> None:
        if before == "a finished task":
            await create_new(client, status="completed")
        responses = await asyncio.gather(
            *(post_unique(client, title=f"task {n}") for n in range(20))
        )
        assert sorted(a.status_code for a in responses) == [200] * 19 + [201]
        assert len({a.json()["id"] for a in responses}) == 1
        assert await count_rows(connection) == (1 if before == "nothing" else 2)

    async def test_key_is_held_while_the_task_is_claimed_or_in_backoff(
        self, client: httpx.AsyncClient, connection: asyncpg.Connection, claim_task: ClaimTask
    ) -> None:
        task = await create_new(client)
        claim = await claim_task(task)
        assert await get_existing(client) == task
        worker = await connection.fetchval("SELECT worker_id FROM queue")
        assert await give_back(
            connection,
            worker,
            [GivenBack(claim.task_id, claim.fence, Outcome.FAILED, delay_seconds=3600)],
        )
        assert await get_existing(client) == task

    @pytest.mark.parametrize("status", ["pending", "in_progress"])
    async def test_manual_task_holds_its_key_until_it_is_completed(
        self, client: httpx.AsyncClient, status: str
    ) -> None:
        task = await create_new(client, handler=None, status=status)
        assert await get_existing(client) == task
        await client.patch(f"{TASKS}/{task}", json={"status": "completed"})
        assert await create_new(client) != task

    @pytest.mark.parametrize(
        "outcome", [Outcome.COMPLETED, Outcome.FAILED, Outcome.CANCELLED, Outcome.DISCARDED]
    )
    async def test_finished_task_releases_its_key(
        self,
        client: httpx.AsyncClient,
        connection: asyncpg.Connection,
        claim_task: ClaimTask,
        outcome: Outcome,
    ) -> None:
        task = await create_new(client)
        await finish_claim(connection, await claim_task(task), outcome)
        second = await create_new(client)
        assert second != task
        assert await get_existing(client) == second

    async def test_retried_task_holds_its_key_again_unless_another_task_does(
        self, client: httpx.AsyncClient
    ) -> None:
        task = await create_new(client)
        await client.post(f"{TASKS}/{task}:cancel")
        await client.post(f"{TASKS}/{task}:retry")
        assert await get_existing(client) == task
        await client.post(f"{TASKS}/{task}:cancel")
        second = await create_new(client)
        assert (await client.post(f"{TASKS}/{task}:retry")).status_code == 200
        assert await get_existing(client) == second

    @pytest.mark.parametrize("hard", [False, True])
    @pytest.mark.parametrize("is_held", [False, True])
    async def test_deleted_task_releases_its_key(
        self, client: httpx.AsyncClient, claim_task: ClaimTask, hard: bool, is_held: bool
    ) -> None:
        task = await create_new(client, unique_seconds=3600)
        if is_held:
            await claim_task(task)
        assert (await client.delete(f"{TASKS}/{task}", params={"hard": hard})).status_code == 204
        assert await create_new(client) != task


class TestPeriod:
    """Keys with `unique_seconds`."""

    async def test_key_is_held_for_its_period_even_if_the_task_ends(
        self, client: httpx.AsyncClient, connection: asyncpg.Connection
    ) -> None:
        task = await create_new(client, unique_seconds=3600)
        await client.post(f"{TASKS}/{task}:cancel")
        assert await get_existing(client) == task
        assert await get_existing(client, unique_seconds=1) == task
        left = "SELECT extract(epoch FROM expires_at - created_at) FROM unique_keys"
        assert await connection.fetchval(left) == 3600
        await connection.execute("UPDATE unique_keys SET expires_at = now()")
        second = await create_new(client)
        assert second != task
        assert await connection.fetchval("SELECT expires_at FROM unique_keys") is None

    async def test_key_is_held_after_its_period_while_the_task_is_open(
        self, client: httpx.AsyncClient, connection: asyncpg.Connection
    ) -> None:
        task = await create_new(client, unique_seconds=3600)
        await connection.execute("UPDATE unique_keys SET expires_at = now()")
        assert await get_existing(client) == task


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"unique_key": "no key"}, "unique_key"),
        ({"unique_key": ""}, "unique_key"),
        ({"unique_key": "k" * 101}, "unique_key"),
        ({"unique_key": "k", "unique_seconds": 0}, "unique_seconds"),
        ({"unique_key": "k", "unique_seconds": 365 * DAY + 1}, "unique_seconds"),
        ({"unique_seconds": 60}, "unique_seconds"),
    ],
)
async def test_invalid_key_or_period_is_rejected(
    client: httpx.AsyncClient, fields: dict[str, Any], field: str
) -> None:
    problem = check_problem(
        await client.post(TASKS, json={"title": "a"} | fields), 422, "invalid_field"
    )
    assert [error["field"] for error in problem["errors"]] == [field]


async def test_repeated_request_gets_the_first_response(
    client: httpx.AsyncClient,
) -> None:
    task = await create_new(client)
    headers = {"Idempotency-Key": "once"}
    body = {"title": "b", "unique_key": "k"}
    assert (await client.post(TASKS, json=body, headers=headers)).status_code == 200
    await client.post(f"{TASKS}/{task}:cancel")
    again = await client.post(TASKS, json=body, headers=headers)
    assert (again.status_code, again.json()["id"]) == (200, task)
    assert again.headers["location"] == f"{TASKS}/{task}"


async def test_maintenance_removes_keys(
    client: httpx.AsyncClient, connection: asyncpg.Connection, database: str
) -> None:
    await create_new(client, status="completed")
    await connection.execute("UPDATE unique_keys SET created_at = now() - interval '2 days'")

    pool = await asyncpg.create_pool(database, min_size=1, max_size=1)
    settings = settings_for(database, use_optional_servers=False)
    maintenance = Maintenance(settings, pool.acquire).loop()
    await maintenance.start()

    async def is_removed() -> bool:
        return not await connection.fetchval("SELECT count(*) FROM unique_keys")

    await eventually("removal of the key", is_removed)
    await maintenance.stop()
    await pool.close()


async def test_only_old_keys_that_are_not_held_are_removed(
    client: httpx.AsyncClient, connection: asyncpg.Connection, other: asyncpg.Connection
) -> None:
    ended = {"status": "completed"}
    fields_by_key: dict[str, dict[str, Any]] = {
        "open": {},
        "ended": ended,
        "new": ended,
        "period": ended | {"unique_seconds": 10 * DAY},
        "taken": ended,
    }
    for key, fields in fields_by_key.items():
        await create_new(client, key, **fields)
    await connection.execute(
        "UPDATE unique_keys SET created_at = now() - interval '2 days' WHERE key <> 'new'"
    )
    transaction = other.transaction()
    await transaction.start()
    await enqueue_async(other, "noop", unique_key="taken")
    assert await prune_unique_keys(connection, DAY) == 1
    await transaction.commit()
    await client.post(f"{TASKS}/{await get_existing(client, 'taken')}:cancel")
    assert await prune_unique_keys(connection, DAY) == 0
    left = {row[0] for row in await connection.fetch("SELECT key FROM unique_keys")}
    assert left == {"open", "new", "period", "taken"}
