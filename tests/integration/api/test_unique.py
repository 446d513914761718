"""Unique tasks: while a key is held, only one task with it exists."""

import asyncio
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest
import pytest_asyncio

from task_service.api.routes.batch import Created
from task_service.api.routes.csv import ImportReport
from task_service.domain.ids import new_id
from task_service.domain.outcomes import Outcome
from task_service.enqueue import enqueue_async
from task_service.loops.maintenance import Maintenance
from task_service.queue.claims import Claim
from task_service.queue.results import Finished, GivenBack, finish, give_back
from task_service.services.csv import importer
from task_service.store.unique import KeyClaim, claim_keys, prune_unique_keys
from tests.support.locks import wait_for_blocked_sessions
from tests.support.problems import check_problem
from tests.support.service_settings import settings_for
from tests.support.task_api import TASKS, ClaimTask, import_csv, post_batch
from tests.support.waiting import eventually

pytestmark = pytest.mark.asyncio


DAY = 86_400


@pytest_asyncio.fixture
async def other(database: str) -> Any:
    """Connection of another process."""
    connection = await asyncpg.connect(database)
    yield connection
    await connection.close()


async def post(client: httpx.AsyncClient, key: str = "k", **fields: Any) -> httpx.Response:
    return await client.post(
        TASKS, json={"title": "a task", "unique_key": key, "handler": "noop"} | fields
    )


async def create_new(client: httpx.AsyncClient, key: str = "k", **fields: Any) -> str:
    """Create a new task and return its id."""
    response = await post(client, key, **fields)
    assert response.status_code == 201, response.text
    return str(response.json()["id"])


async def get_existing(client: httpx.AsyncClient, key: str = "k", **fields: Any) -> str:
    """Request a task whose key is held; return the id of the existing task."""
    response = await post(client, key, **fields)
    assert response.status_code == 200, response.text
    return str(response.json()["id"])


async def count_tasks(connection: asyncpg.Connection) -> int:
    return int(await connection.fetchval("SELECT count(*) FROM tasks"))


async def finish_claim(
    connection: asyncpg.Connection, claim: Claim, outcome: Outcome = Outcome.COMPLETED
) -> None:
    worker = await connection.fetchval(
        "SELECT worker_id FROM queue WHERE task_id = $1", claim.task_id
    )
    assert await finish(connection, worker, [Finished(claim.task_id, claim.fence, outcome)])


class TestWhileOpen:
    """Keys without `unique_seconds`."""

    async def test_second_create_returns_the_existing_task_unchanged(
        self, client: httpx.AsyncClient, connection: asyncpg.Connection
    ) -> None:
        first = await post(client, title="the first", tags=["a"])
        again = await post(
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
        responses = await asyncio.gather(*(post(client, title=f"task {n}") for n in range(20)))
        assert sorted(a.status_code for a in responses) == [200] * 19 + [201]
        assert len({a.json()["id"] for a in responses}) == 1
        assert await count_tasks(connection) == (1 if before == "nothing" else 2)

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


class TestRaces:
    """Two transactions with one key, step by step."""

    async def test_create_that_waits_for_another_returns_its_task(
        self, client: httpx.AsyncClient, connection: asyncpg.Connection, other: asyncpg.Connection
    ) -> None:
        await create_new(client, status="completed")
        transaction = other.transaction()
        await transaction.start()
        task = await enqueue_async(other, "noop", unique_key="k")
        waiting = asyncio.create_task(post(client))
        await wait_for_blocked_sessions(connection, 1)
        await transaction.commit()
        response = await waiting
        assert (response.status_code, response.json()["id"]) == (200, str(task))

    @pytest.mark.parametrize("before", ["nothing", "a finished task"])
    async def test_create_that_waits_for_a_rolled_back_one_creates_the_task(
        self,
        client: httpx.AsyncClient,
        connection: asyncpg.Connection,
        other: asyncpg.Connection,
        before: str,
    ) -> None:
        if before == "a finished task":
            await create_new(client, status="completed")
        transaction = other.transaction()
        await transaction.start()
        await enqueue_async(other, "noop", unique_key="k")
        waiting = asyncio.create_task(post(client))
        await wait_for_blocked_sessions(connection, 1)
        await transaction.rollback()
        assert (await waiting).status_code == 201

    async def test_waiting_create_sees_that_the_task_completed(
        self,
        client: httpx.AsyncClient,
        connection: asyncpg.Connection,
        other: asyncpg.Connection,
        claim_task: ClaimTask,
    ) -> None:
        task = await create_new(client)
        claim = await claim_task(task)
        transaction = other.transaction()
        await transaction.start()
        assert await enqueue_async(other, "noop", unique_key="k") == UUID(task)
        waiting = asyncio.create_task(post(client))
        await wait_for_blocked_sessions(connection, 1)
        await finish_claim(connection, claim)
        await transaction.commit()
        response = await waiting
        assert response.status_code == 201
        assert response.json()["id"] != task

    async def test_batches_with_keys_in_opposite_order_do_not_deadlock(
        self, connection: asyncpg.Connection, database: str
    ) -> None:
        first, one, two = [await asyncpg.connect(database) for _ in range(3)]
        blocks = first.transaction()
        await blocks.start()
        await claim_keys(first, [KeyClaim("m", new_id(), None)])

        async def claim(connection: asyncpg.Connection, keys: str) -> None:
            async with connection.transaction():
                await claim_keys(connection, [KeyClaim(key, new_id(), None) for key in keys])

        claims = []
        for number, (of, keys) in enumerate(((one, "amz"), (two, "zma")), 1):
            claims.append(asyncio.create_task(claim(of, keys)))
            await wait_for_blocked_sessions(connection, number)
        await blocks.rollback()
        await asyncio.gather(*claims)
        assert await connection.fetchval("SELECT count(*) FROM unique_keys") == 3
        for each in (first, one, two):
            await each.close()


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


class TestMany:
    """Keys in batches and CSV files."""

    async def test_batch_reports_existing_tasks_and_duplicate_keys(
        self, client: httpx.AsyncClient, connection: asyncpg.Connection
    ) -> None:
        there = await create_new(client, "there")
        rows: list[dict[str, Any]] = [{"title": f"row {n}", "handler": "noop"} for n in range(5)]
        for row, key in zip(rows, ("new", None, "there", "new", "other"), strict=True):
            row["unique_key"] = key
        response = await post_batch(client, rows)
        assert response.status_code == 201, response.text
        created = Created.model_validate_json(response.content)
        assert (created.created, created.present) == (3, [2, 3])
        assert [t.title for t in created.items] == ["row 0", "row 1", "a task", "row 0", "row 4"]
        assert str(created.items[2].id) == there
        assert (
            await count_tasks(connection)
            == await connection.fetchval("SELECT count(*) FROM queue")
            == 4
        )
        again = await post_batch(client, [rows[0], rows[2]])
        assert (again.status_code, again.json()["created"], again.json()["present"]) == (
            200,
            0,
            [0, 1],
        )

    async def test_row_created_as_completed_does_not_hold_its_key(
        self, client: httpx.AsyncClient
    ) -> None:
        row = {"title": "a", "unique_key": "k"}
        created = (await post_batch(client, [row | {"status": "completed"}, row, row])).json()
        assert (created["created"], created["present"]) == (2, [2])
        assert await get_existing(client) == created["items"][1]["id"]
        ended = {"title": "a", "unique_key": "p", "status": "completed", "unique_seconds": 60}
        created = (await post_batch(client, [ended, {"title": "b", "unique_key": "p"}])).json()
        assert (created["created"], created["present"]) == (1, [1])

    async def test_import_reports_the_lines_of_existing_tasks(
        self,
        client: httpx.AsyncClient,
        connection: asyncpg.Connection,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(importer, "CHUNK", 2)
        await create_new(client, "there")
        lines = [
            "title,unique_key,unique_seconds",
            "a,k,60",
            "b,there,",
            "c,k,",
            "d,,",
            ",x,",
            "e,k,",
            "f,new,",
        ]
        report: ImportReport = await import_csv(client, "\r\n".join(lines))
        assert (report.rows, report.created, report.skipped) == (7, 3, 1)
        assert (report.present, report.present_lines) == (3, [3, 4, 7])
        assert await count_tasks(connection) == 4
        assert (
            await connection.fetchval("SELECT count(*) FROM unique_keys WHERE expires_at > now()")
            == 1
        )


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
    sweeps = asyncio.create_task(
        Maintenance(settings_for(database, use_optional_servers=False), pool.acquire).run()
    )

    async def is_removed() -> bool:
        return not await connection.fetchval("SELECT count(*) FROM unique_keys")

    await eventually("removal of the key", is_removed)
    sweeps.cancel()
    await asyncio.gather(sweeps, return_exceptions=True)
    await pool.close()


async def test_only_old_keys_that_are_not_held_are_removed(
    client: httpx.AsyncClient, connection: asyncpg.Connection, other: asyncpg.Connection
) -> None:
    for key, fields in {
        "open": {}, "ended": {"status": "completed"}, "new": {"status": "completed"},
        "period": {"status": "completed", "unique_seconds": 10 * DAY}, "taken": {"status": "completed"},
    }.items():  # fmt: skip
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
