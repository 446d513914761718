"""Unique tasks: while a key is held there is one task of it, whoever creates."""

import asyncio
from collections.abc import Awaitable, Callable
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
from tests.integration.api.test_bad_input import check_problem
from tests.integration.api.test_batch import post as post_batch
from tests.integration.api.test_csv import report_of
from tests.integration.api.test_tasks import TASKS
from tests.support.service_settings import settings_for
from tests.support.waiting import eventually

pytestmark = pytest.mark.asyncio
Hold = Callable[[str], Awaitable[Claim]]
WAITERS = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
DAY = 86_400


@pytest_asyncio.fixture
async def other(database: str) -> Any:
    """A connection of somebody else, in a transaction."""
    connection = await asyncpg.connect(database)
    yield connection
    await connection.close()


async def post(client: httpx.AsyncClient, key: str = "k", **fields: Any) -> httpx.Response:
    return await client.post(
        TASKS, json={"title": "a task", "unique_key": key, "handler": "noop"} | fields
    )


async def made(client: httpx.AsyncClient, key: str = "k", **fields: Any) -> str:
    """The id of a new task."""
    answer = await post(client, key, **fields)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


async def present(client: httpx.AsyncClient, key: str = "k", **fields: Any) -> str:
    """The id of the task that was there already."""
    answer = await post(client, key, **fields)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


async def tasks_in(connection: asyncpg.Connection) -> int:
    return int(await connection.fetchval("SELECT count(*) FROM tasks"))


async def waiting(connection: asyncpg.Connection, number: int) -> None:
    """Wait until so many transactions wait for a lock."""

    async def probe() -> bool:
        return bool(await connection.fetchval(WAITERS) == number)

    await eventually(f"{number} waiting for a lock", probe)


async def end(
    connection: asyncpg.Connection, claim: Claim, outcome: Outcome = Outcome.COMPLETED
) -> None:
    worker = await connection.fetchval(
        "SELECT worker_id FROM queue WHERE task_id = $1", claim.task_id
    )
    assert await finish(connection, worker, [Finished(claim.task_id, claim.fence, outcome)])


class TestWhileOpen:
    """A key without a period."""

    async def test_a_second_create_is_answered_with_the_present_task_as_it_is(
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

    async def test_other_keys_and_none_are_free(self, client: httpx.AsyncClient) -> None:
        ids = [await made(client), await made(client, "K"), await made(client, "k2")]
        ids += [(await client.post(TASKS, json={"title": "a"})).json()["id"] for _ in range(2)]
        assert len(set(ids)) == 5

    @pytest.mark.parametrize("before", ["nothing", "an ended task"])
    async def test_of_twenty_creators_at_once_one_makes_it(
        self, client: httpx.AsyncClient, connection: asyncpg.Connection, before: str
    ) -> None:
        if before == "an ended task":
            await made(client, status="completed")
        answers = await asyncio.gather(*(post(client, title=f"task {n}") for n in range(20)))
        assert sorted(a.status_code for a in answers) == [200] * 19 + [201]
        assert len({a.json()["id"] for a in answers}) == 1
        assert await tasks_in(connection) == (1 if before == "nothing" else 2)

    async def test_held_by_a_worker_or_tried_again_it_is_open(
        self, client: httpx.AsyncClient, connection: asyncpg.Connection, held: Hold
    ) -> None:
        task = await made(client)
        claim = await held(task)
        assert await present(client) == task
        worker = await connection.fetchval("SELECT worker_id FROM queue")
        assert await give_back(
            connection,
            worker,
            [GivenBack(claim.task_id, claim.fence, Outcome.FAILED, delay_seconds=3600)],
        )
        assert await present(client) == task

    @pytest.mark.parametrize("status", ["pending", "in_progress"])
    async def test_a_persons_task_is_open_until_they_are_done(
        self, client: httpx.AsyncClient, status: str
    ) -> None:
        task = await made(client, handler=None, status=status)
        assert await present(client) == task
        await client.patch(f"{TASKS}/{task}", json={"status": "completed"})
        assert await made(client) != task

    @pytest.mark.parametrize(
        "outcome", [Outcome.COMPLETED, Outcome.FAILED, Outcome.CANCELLED, Outcome.DISCARDED]
    )
    async def test_what_a_worker_has_ended_lets_go(
        self,
        client: httpx.AsyncClient,
        connection: asyncpg.Connection,
        held: Hold,
        outcome: Outcome,
    ) -> None:
        task = await made(client)
        await end(connection, await held(task), outcome)
        second = await made(client)
        assert second != task
        assert await present(client) == second

    async def test_cancelled_and_retried_it_holds_its_key_again_unless_another_has_it(
        self, client: httpx.AsyncClient
    ) -> None:
        task = await made(client)
        await client.post(f"{TASKS}/{task}:cancel")
        await client.post(f"{TASKS}/{task}:retry")
        assert await present(client) == task
        await client.post(f"{TASKS}/{task}:cancel")
        second = await made(client)
        assert (await client.post(f"{TASKS}/{task}:retry")).status_code == 200
        assert await present(client) == second

    @pytest.mark.parametrize("hard", [False, True])
    @pytest.mark.parametrize("is_held", [False, True])
    async def test_a_deleted_one_lets_go(
        self, client: httpx.AsyncClient, held: Hold, hard: bool, is_held: bool
    ) -> None:
        task = await made(client, unique_seconds=3600)
        if is_held:
            await held(task)
        assert (await client.delete(f"{TASKS}/{task}", params={"hard": hard})).status_code == 204
        assert await made(client) != task


class TestRaces:
    """Two transactions at one key, step by step."""

    async def test_who_waited_for_a_creator_gets_that_ones_task(
        self, client: httpx.AsyncClient, connection: asyncpg.Connection, other: asyncpg.Connection
    ) -> None:
        await made(client, status="completed")
        transaction = other.transaction()
        await transaction.start()
        task = await enqueue_async(other, "noop", unique_key="k")
        waits = asyncio.create_task(post(client))
        await waiting(connection, 1)
        await transaction.commit()
        answer = await waits
        assert (answer.status_code, answer.json()["id"]) == (200, str(task))

    @pytest.mark.parametrize("before", ["nothing", "an ended task"])
    async def test_who_waited_for_a_creator_that_gave_up_makes_it(
        self,
        client: httpx.AsyncClient,
        connection: asyncpg.Connection,
        other: asyncpg.Connection,
        before: str,
    ) -> None:
        if before == "an ended task":
            await made(client, status="completed")
        transaction = other.transaction()
        await transaction.start()
        await enqueue_async(other, "noop", unique_key="k")
        waits = asyncio.create_task(post(client))
        await waiting(connection, 1)
        await transaction.rollback()
        assert (await waits).status_code == 201

    async def test_a_completion_while_a_creator_waits_is_seen(
        self,
        client: httpx.AsyncClient,
        connection: asyncpg.Connection,
        other: asyncpg.Connection,
        held: Hold,
    ) -> None:
        task = await made(client)
        claim = await held(task)
        transaction = other.transaction()
        await transaction.start()
        assert await enqueue_async(other, "noop", unique_key="k") == UUID(task)
        waits = asyncio.create_task(post(client))
        await waiting(connection, 1)
        await end(connection, claim)
        await transaction.commit()
        answer = await waits
        assert answer.status_code == 201
        assert answer.json()["id"] != task

    async def test_batches_with_keys_in_opposite_order_do_not_wait_for_each_other(
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
            await waiting(connection, number)
        await blocks.rollback()
        await asyncio.gather(*claims)
        assert await connection.fetchval("SELECT count(*) FROM unique_keys") == 3
        for each in (first, one, two):
            await each.close()


class TestPeriod:
    """A key with `unique_seconds`."""

    async def test_it_holds_for_its_period_whatever_becomes_of_the_task(
        self, client: httpx.AsyncClient, connection: asyncpg.Connection
    ) -> None:
        task = await made(client, unique_seconds=3600)
        await client.post(f"{TASKS}/{task}:cancel")
        assert await present(client) == task
        assert await present(client, unique_seconds=1) == task
        left = "SELECT extract(epoch FROM expires_at - created_at) FROM unique_keys"
        assert await connection.fetchval(left) == 3600
        await connection.execute("UPDATE unique_keys SET expires_at = now()")
        second = await made(client)
        assert second != task
        assert await connection.fetchval("SELECT expires_at FROM unique_keys") is None

    async def test_it_holds_after_its_period_while_the_task_is_open(
        self, client: httpx.AsyncClient, connection: asyncpg.Connection
    ) -> None:
        task = await made(client, unique_seconds=3600)
        await connection.execute("UPDATE unique_keys SET expires_at = now()")
        assert await present(client) == task


class TestMany:
    """Batches and files."""

    async def test_a_batch_tells_which_were_there_also_twice_in_itself(
        self, client: httpx.AsyncClient, connection: asyncpg.Connection
    ) -> None:
        there = await made(client, "there")
        rows: list[dict[str, Any]] = [{"title": f"row {n}", "handler": "noop"} for n in range(5)]
        for row, key in zip(rows, ("new", None, "there", "new", "other"), strict=True):
            row["unique_key"] = key
        answer = await post_batch(client, rows)
        assert answer.status_code == 201, answer.text
        told = Created.model_validate_json(answer.content)
        assert (told.created, told.present) == (3, [2, 3])
        assert [t.title for t in told.items] == ["row 0", "row 1", "a task", "row 0", "row 4"]
        assert str(told.items[2].id) == there
        assert (
            await tasks_in(connection)
            == await connection.fetchval("SELECT count(*) FROM queue")
            == 4
        )
        again = await post_batch(client, [rows[0], rows[2]])
        assert (again.status_code, again.json()["created"], again.json()["present"]) == (
            200,
            0,
            [0, 1],
        )

    async def test_a_row_that_is_made_ended_holds_nothing_for_the_next(
        self, client: httpx.AsyncClient
    ) -> None:
        row = {"title": "a", "unique_key": "k"}
        told = (await post_batch(client, [row | {"status": "completed"}, row, row])).json()
        assert (told["created"], told["present"]) == (2, [2])
        assert await present(client) == told["items"][1]["id"]
        ended = {"title": "a", "unique_key": "p", "status": "completed", "unique_seconds": 60}
        told = (await post_batch(client, [ended, {"title": "b", "unique_key": "p"}])).json()
        assert (told["created"], told["present"]) == (1, [1])

    async def test_a_file_tells_the_lines_of_those_that_were_there(
        self,
        client: httpx.AsyncClient,
        connection: asyncpg.Connection,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(importer, "CHUNK", 2)
        await made(client, "there")
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
        report: ImportReport = await report_of(client, "\r\n".join(lines))
        assert (report.rows, report.created, report.skipped) == (7, 3, 1)
        assert (report.present, report.present_lines) == (3, [3, 4, 7])
        assert await tasks_in(connection) == 4
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
async def test_a_bad_key_or_period_is_refused(
    client: httpx.AsyncClient, fields: dict[str, Any], field: str
) -> None:
    problem = check_problem(
        await client.post(TASKS, json={"title": "a"} | fields), 422, "invalid_field"
    )
    assert [error["field"] for error in problem["errors"]] == [field]


async def test_the_same_request_again_is_answered_as_it_was_the_first_time(
    client: httpx.AsyncClient,
) -> None:
    task = await made(client)
    headers = {"Idempotency-Key": "once"}
    body = {"title": "b", "unique_key": "k"}
    assert (await client.post(TASKS, json=body, headers=headers)).status_code == 200
    await client.post(f"{TASKS}/{task}:cancel")
    again = await client.post(TASKS, json=body, headers=headers)
    assert (again.status_code, again.json()["id"]) == (200, task)
    assert again.headers["location"] == f"{TASKS}/{task}"


async def test_the_maintenance_forgets_keys(
    client: httpx.AsyncClient, connection: asyncpg.Connection, database: str
) -> None:
    await made(client, status="completed")
    await connection.execute("UPDATE unique_keys SET created_at = now() - interval '2 days'")

    pool = await asyncpg.create_pool(database, min_size=1, max_size=1)
    sweeps = asyncio.create_task(
        Maintenance(settings_for(database, use_optional_servers=False), pool.acquire).run()
    )

    async def gone() -> bool:
        return not await connection.fetchval("SELECT count(*) FROM unique_keys")

    await eventually("the key is gone", gone)
    sweeps.cancel()
    await asyncio.gather(sweeps, return_exceptions=True)
    await pool.close()


async def test_only_old_keys_that_hold_nothing_are_forgotten(
    client: httpx.AsyncClient, connection: asyncpg.Connection, other: asyncpg.Connection
) -> None:
    for key, fields in {
        "open": {}, "ended": {"status": "completed"}, "new": {"status": "completed"},
        "period": {"status": "completed", "unique_seconds": 10 * DAY}, "taken": {"status": "completed"},
    }.items():  # fmt: skip
        await made(client, key, **fields)
    await connection.execute(
        "UPDATE unique_keys SET created_at = now() - interval '2 days' WHERE key <> 'new'"
    )
    transaction = other.transaction()
    await transaction.start()
    await enqueue_async(other, "noop", unique_key="taken")
    assert await prune_unique_keys(connection, DAY) == 1
    await transaction.commit()
    await client.post(f"{TASKS}/{await present(client, 'taken')}:cancel")
    assert await prune_unique_keys(connection, DAY) == 0
    left = {row[0] for row in await connection.fetch("SELECT key FROM unique_keys")}
    assert left == {"open", "new", "period", "taken"}
