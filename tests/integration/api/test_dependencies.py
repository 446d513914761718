"""Tasks that wait for other tasks, until all of them have ended."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import pairwise
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest
import pytest_asyncio

from task_service.domain.ids import new_id
from task_service.domain.outcomes import Outcome
from task_service.queue import dependencies
from task_service.queue.claims import Bounds, Claim, claim
from task_service.queue.dependencies import settle
from task_service.queue.entries import Entry, enqueue
from task_service.queue.limits import Admission, admit
from task_service.queue.results import Finished, end
from task_service.queue.statements import statement
from tests.integration.api.test_bad_input import check_problem
from tests.integration.api.test_batch import post as post_batch
from tests.integration.api.test_tasks import TASKS, create
from tests.integration.api.test_unique import waiting
from tests.support.tasks import add_worker, quiet_wakeups

pytestmark = pytest.mark.asyncio
Connect = Callable[[], Awaitable[asyncpg.Connection]]


@pytest_asyncio.fixture(autouse=True)
async def _nobody_waits_for_nothing(connection: asyncpg.Connection) -> AsyncIterator[None]:
    """What is blocked waits for something, and what waits is blocked."""
    yield
    await dependencies.sweep(connection, everything=True)
    blocked = {
        row[0]
        for row in await connection.fetch("SELECT task_id FROM queue WHERE state = 'blocked'")
    }
    assert blocked == {
        row[0] for row in await connection.fetch("SELECT DISTINCT task_id FROM dependencies")
    }


@pytest_asyncio.fixture
async def connect(database: str) -> AsyncIterator[Connect]:
    """Opens connections of others; their transactions end with the test."""
    opened: list[asyncpg.Connection] = []

    async def open_one() -> asyncpg.Connection:
        opened.append(await asyncpg.connect(database))
        return opened[-1]

    yield open_one
    for each in opened:
        await each.close()


async def waiter(client: httpx.AsyncClient, *needs: str, **fields: Any) -> str:
    """The id of a task that needs these."""
    return str((await create(client, handler="noop", needs=list(needs), **fields))["id"])


async def look(client: httpx.AsyncClient, task: str) -> dict[str, Any]:
    answer = await client.get(f"{TASKS}/{task}")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def state(connection: asyncpg.Connection, task: str) -> str | None:
    return await connection.fetchval("SELECT state FROM queue WHERE task_id = $1", task)  # type: ignore[no-any-return]


class Work:
    """A worker that is only a row: it claims what there is, and ends it when the test says so."""

    def __init__(self, connection: asyncpg.Connection, worker: UUID) -> None:
        self.connection, self.worker = connection, worker
        self.held: dict[str, Claim] = {}

    async def claim(self) -> set[str]:
        claims = await claim(
            self.connection, self.worker, Bounds(["default"]), 100, start_at_once=True
        )
        self.held |= {str(c.task_id): c for c in claims}
        return {str(c.task_id) for c in claims}

    async def end(
        self, task: str, outcome: Outcome = Outcome.COMPLETED, *, tells: bool = True
    ) -> None:
        held = self.held.pop(task)
        ended = await end(
            self.connection, self.worker, [Finished(held.task_id, held.fence, outcome)]
        )
        assert not ended.lost
        if tells:
            await settle(self.connection, ended.awaited)


@pytest_asyncio.fixture
async def work(connection: asyncpg.Connection) -> Work:
    return Work(connection, await add_worker(connection))


class TestOrder:
    """Who runs when."""

    async def test_a_task_waits_for_all_that_it_needs(
        self, client: httpx.AsyncClient, connection: asyncpg.Connection, work: Work
    ) -> None:
        needs = [await waiter(client) for _ in range(3)]
        task = await waiter(client, *needs, needs[0])
        assert (await look(client, task))["waits_for"] == sorted(needs)
        assert (await look(client, task))["status"] == "pending"
        assert await work.claim() == set(needs)
        for number, need in enumerate(needs, 1):
            assert await work.claim() == set()
            await work.end(need)
            assert (await look(client, task))["waits_for"] == sorted(needs[number:])
        assert await work.claim() == {task}
        assert (await look(client, task))["status"] == "processing"

    async def test_fan_out_and_fan_in(self, client: httpx.AsyncClient, work: Work) -> None:
        first = await waiter(client)
        answer = await post_batch(
            client, [{"title": "part", "handler": "noop", "needs": [first]}] * 20
        )
        parts = {str(t["id"]) for t in answer.json()["items"]}
        last = await waiter(client, *parts)
        assert await work.claim() == {first}
        await work.end(first)
        assert await work.claim() == parts
        for part in parts:
            assert await work.claim() == set()
            await work.end(part)
        assert await work.claim() == {last}

    async def test_what_has_ended_already_is_not_waited_for(
        self, client: httpx.AsyncClient, connection: asyncpg.Connection, work: Work
    ) -> None:
        ended = await waiter(client)
        await work.claim()
        await work.end(ended)
        done = (await create(client, status="completed"))["id"]
        assert await state(connection, await waiter(client, ended, done)) == "ready"

    async def test_a_persons_task_is_waited_for_until_they_are_done(
        self, client: httpx.AsyncClient, connection: asyncpg.Connection
    ) -> None:
        person = (await create(client))["id"]
        task = await waiter(client, person)
        for status, expected in (("in_progress", "blocked"), ("completed", "ready")):
            await client.patch(f"{TASKS}/{person}", json={"status": status})
            await dependencies.sweep(connection, everything=False)
            assert await state(connection, task) == expected

    async def test_a_persons_task_that_gets_a_handler_is_still_waited_for(
        self, client: httpx.AsyncClient, connection: asyncpg.Connection, work: Work
    ) -> None:
        person = (await create(client))["id"]
        task = await waiter(client, person)
        await client.patch(f"{TASKS}/{person}", json={"handler": "noop"})
        assert await work.claim() == {person}
        await work.end(person)
        assert await work.claim() == {task}

    async def test_it_is_not_run_before_its_own_time(
        self, client: httpx.AsyncClient, connection: asyncpg.Connection, work: Work
    ) -> None:
        need = await waiter(client)
        later = await waiter(client, need, run_at="2999-01-01T00:00:00Z")
        await work.claim()
        await work.end(need)
        assert await state(connection, later) == "ready"
        assert (await look(client, later))["status"] == "scheduled"

    async def test_a_retry_is_no_end(
        self, client: httpx.AsyncClient, connection: asyncpg.Connection
    ) -> None:
        need = await waiter(client)
        task = await waiter(client, need)
        await client.patch(
            f"{TASKS}/{need}", json={"priority": "low", "run_at": "2999-01-01T00:00:00Z"}
        )
        await client.post(f"{TASKS}/{need}:retry")
        await dependencies.sweep(connection, everything=True)
        assert await state(connection, task) == "blocked"


class TestFailure:
    """What becomes of those whose need does not complete."""

    @pytest.mark.parametrize(
        "outcome", [Outcome.FAILED, Outcome.TIMED_OUT, Outcome.CANCELLED, Outcome.DISCARDED]
    )
    async def test_they_are_cancelled_and_told_which_or_run_if_they_said_so(
        self, client: httpx.AsyncClient, work: Work, outcome: Outcome
    ) -> None:
        good, bad = await waiter(client), await waiter(client)
        cancelled = await waiter(client, good, bad)
        runs = await waiter(client, good, bad, when_failed="run")
        await work.claim()
        await work.end(bad, outcome)
        status = "cancelled" if outcome is Outcome.CANCELLED else "failed"
        why = f"the task {bad}, which it needs, is {status}"
        seen = await look(client, cancelled)
        assert (seen["status"], seen["error"], seen["waits_for"]) == ("cancelled", why, [])
        [run] = (await client.get(f"{TASKS}/{cancelled}/runs")).json()["items"]
        assert (run["outcome"], run["reason"], run["worker_id"]) == ("cancelled", why, None)
        history = (await client.get(f"{TASKS}/{cancelled}/history")).json()["items"]
        assert (history[-1]["new_status"], history[-1]["reason"]) == ("cancelled", why)
        assert (await look(client, runs))["waits_for"] == [good]
        assert await work.claim() == set()
        await work.end(good)
        assert await work.claim() == {runs}

    async def test_those_who_wait_for_the_cancelled_are_cancelled_too(
        self, client: httpx.AsyncClient, work: Work
    ) -> None:
        bad = await waiter(client)
        chain = [bad]
        for _ in range(4):
            chain.append(await waiter(client, chain[-1]))
        runs = await waiter(client, chain[-1], when_failed="run")
        await work.claim()
        await work.end(bad, Outcome.FAILED)
        for before, task in pairwise(chain[1:]):
            assert (await look(client, task))[
                "error"
            ] == f"the task {before}, which it needs, is cancelled"
        assert await work.claim() == {runs}

    async def test_a_need_that_has_failed_before_cancels_at_once(
        self, client: httpx.AsyncClient
    ) -> None:
        bad = (await create(client, status="failed"))["id"]
        made = await create(client, handler="noop", needs=[bad])
        assert (made["status"], made["error"]) == (
            "cancelled",
            f"the task {bad}, which it needs, is failed",
        )
        assert (await create(client, handler="noop", needs=[bad], when_failed="run"))[
            "status"
        ] == "pending"

    @pytest.mark.parametrize("way", ["cancel", "failed", "delete", "erase"])
    @pytest.mark.parametrize("handler", [None, "noop"])
    async def test_what_people_end_is_found_by_the_next_sweep(
        self,
        client: httpx.AsyncClient,
        connection: asyncpg.Connection,
        way: str,
        handler: str | None,
    ) -> None:
        need = (await create(client, handler=handler))["id"]
        task = await waiter(client, need)
        match way:
            case "cancel":
                await client.post(f"{TASKS}/{need}:cancel")
            case "failed":
                await client.patch(f"{TASKS}/{need}", json={"status": "failed"})
            case _:
                await client.delete(f"{TASKS}/{need}", params={"hard": way == "erase"})
        await dependencies.sweep(connection, everything=False)
        words = {"failed": "failed", "erase": "deleted"}
        assert (await look(client, task))[
            "error"
        ] == f"the task {need}, which it needs, is {words.get(way, 'cancelled')}"

    async def test_one_that_was_cancelled_so_can_be_opened_again_and_waits_no_more(
        self, client: httpx.AsyncClient, work: Work
    ) -> None:
        bad, goes_on = await waiter(client), await waiter(client)
        task = await waiter(client, bad, goes_on)
        await work.claim()
        await work.end(bad, Outcome.FAILED)
        assert (await client.post(f"{TASKS}/{task}:retry")).json()["status"] == "pending"
        assert await work.claim() == {task}
        await work.end(task)
        assert (await look(client, task))["status"] == "completed"


class TestWaiters:
    """What people do to a task that waits."""

    async def test_it_can_be_changed_and_waits_on(
        self, client: httpx.AsyncClient, connection: asyncpg.Connection, work: Work
    ) -> None:
        need = await waiter(client)
        task = await waiter(client, need)
        await client.patch(f"{TASKS}/{task}", json={"priority": "urgent"})
        assert await state(connection, task) == "blocked"
        await work.claim()
        await work.end(need)
        assert await work.claim() == {task}

    @pytest.mark.parametrize("again", [False, True])
    async def test_cancelled_by_a_person_it_waits_no_more(
        self, client: httpx.AsyncClient, connection: asyncpg.Connection, work: Work, again: bool
    ) -> None:
        need = await waiter(client)
        task = await waiter(client, need)
        await client.post(f"{TASKS}/{task}:cancel")
        if again:
            await client.post(f"{TASKS}/{task}:retry")
        assert (await look(client, task))["waits_for"] == []
        assert await work.claim() == ({need, task} if again else {need})
        await work.end(need, Outcome.FAILED)
        assert (await look(client, task))["status"] == ("processing" if again else "cancelled")
        assert await connection.fetchval("SELECT count(*) FROM dependencies") == 0

    async def test_under_a_limit_it_is_admitted_only_when_its_needs_have_ended(
        self, client: httpx.AsyncClient, connection: asyncpg.Connection, work: Work
    ) -> None:
        assert (await client.put("/api/v1/limits/key/tenant", json={"concurrency": 1})).is_success
        need = await waiter(client)
        task = await waiter(client, need, limit_key="tenant")
        assert await admit(connection) == Admission(0, None)
        assert (await client.patch(f"{TASKS}/{task}", json={"priority": "urgent"})).is_success
        assert await admit(connection) == Admission(0, None)
        assert await state(connection, task) == "blocked"
        await work.claim()
        await work.end(need)
        assert await state(connection, task) == "blocked"
        assert await admit(connection) == Admission(1, None)
        assert await work.claim() == {task}
        await work.end(task)

    async def test_what_it_waited_for_is_forgotten_while_that_is_open(
        self, client: httpx.AsyncClient, connection: asyncpg.Connection
    ) -> None:
        task = await waiter(client, await waiter(client))
        await client.post(f"{TASKS}/{task}:cancel")
        await dependencies.sweep(connection, everything=True)
        assert await connection.fetchval("SELECT count(*) FROM dependencies") == 0

    async def test_figures_tell_how_many_wait(self, client: httpx.AsyncClient) -> None:
        need = await waiter(client)
        for _ in range(2):
            await waiter(client, need)
        [queue] = (await client.get("/api/v1/queues")).json()["queues"]
        assert (queue["ready"], queue["blocked"]) == (1, 2)


class TestRaces:
    """Ends against creates, and against each other."""

    @pytest.mark.parametrize("commits", [True, False])
    async def test_an_end_that_a_create_finds_under_way_is_waited_for(
        self,
        client: httpx.AsyncClient,
        connection: asyncpg.Connection,
        connect: Connect,
        work: Work,
        commits: bool,
    ) -> None:
        need = await waiter(client)
        await waiter(client, need)
        await work.claim()
        other = await connect()
        transaction = other.transaction()
        await transaction.start()
        held = work.held[need]
        assert not (
            await end(other, work.worker, [Finished(held.task_id, held.fence, Outcome.COMPLETED)])
        ).lost
        creates = asyncio.create_task(waiter(client, need))
        await waiting(connection, 1)
        await (transaction.commit() if commits else transaction.rollback())
        assert await state(connection, await creates) == ("ready" if commits else "blocked")
        await settle(connection, [UUID(need)])

    async def test_an_end_that_finds_a_create_under_way_sees_it(
        self,
        client: httpx.AsyncClient,
        connection: asyncpg.Connection,
        connect: Connect,
        work: Work,
    ) -> None:
        need, task = await waiter(client), await waiter(client)
        await work.claim()
        del work.held[task]
        other, ender = await connect(), await connect()
        await connection.execute(
            "UPDATE queue SET state = 'ready', worker_id = NULL, claimed_at = NULL, fence = 0 WHERE task_id = $1",
            task,
        )
        transaction = other.transaction()
        await transaction.start()
        assert not await dependencies.block(
            other, [dependencies.Need(UUID(task), UUID(need), cancels=True)]
        )
        held = work.held[need]
        ends = asyncio.create_task(
            end(ender, work.worker, [Finished(held.task_id, held.fence, Outcome.COMPLETED)])
        )
        await waiting(connection, 1)
        await transaction.commit()
        ended = await ends
        assert ended.awaited == [UUID(need)]
        assert await state(connection, task) == "blocked"
        await settle(ender, ended.awaited)
        assert await state(connection, task) == "ready"

    @pytest.mark.parametrize("way", ["status", "erase"])
    async def test_a_person_who_ends_it_waits_for_a_create_under_way(
        self, client: httpx.AsyncClient, connection: asyncpg.Connection, connect: Connect, way: str
    ) -> None:
        need, task = (await create(client))["id"], await waiter(client)
        other = await connect()
        transaction = other.transaction()
        await transaction.start()
        assert not await dependencies.block(
            other, [dependencies.Need(UUID(task), UUID(need), cancels=False)]
        )
        if way == "status":
            ends = asyncio.create_task(
                client.patch(f"{TASKS}/{need}", json={"status": "completed"})
            )
        else:
            ends = asyncio.create_task(client.delete(f"{TASKS}/{need}", params={"hard": True}))
        await waiting(connection, 1)
        await transaction.commit()
        assert (await ends).status_code < 300
        await dependencies.sweep(connection, everything=False)
        assert await state(connection, task) == "ready"

    async def test_a_need_that_is_being_opened_again_is_waited_for(
        self,
        client: httpx.AsyncClient,
        connection: asyncpg.Connection,
        connect: Connect,
        work: Work,
    ) -> None:
        need = await waiter(client)
        await work.claim()
        await work.end(need, Outcome.FAILED)
        other = await connect()
        transaction = other.transaction()
        await transaction.start()
        await other.execute("SELECT FROM tasks WHERE id = $1 FOR NO KEY UPDATE", need)
        await other.execute(
            "UPDATE runs SET final = false, reopened = true WHERE task_id = $1", need
        )
        entry = Entry(UUID(need), "default", 2, None, 5, None, "noop", fence=1)
        await enqueue(other, [entry], quiet_wakeups())
        await dependencies.keep_awaited(other, UUID(need))
        creates = asyncio.create_task(waiter(client, need))
        await waiting(connection, 1)
        await transaction.commit()
        task = await creates
        assert await work.claim() == {need}
        await work.end(need)
        assert await state(connection, task) == "ready"

    async def test_of_two_ends_at_once_the_second_lets_it_go(
        self,
        client: httpx.AsyncClient,
        connection: asyncpg.Connection,
        connect: Connect,
        work: Work,
    ) -> None:
        needs = [await waiter(client), await waiter(client)]
        task = await waiter(client, *needs)
        await work.claim()
        other = await connect()
        await work.end(needs[0], tells=False)
        transaction = other.transaction()
        await transaction.start()
        await settle(other, [UUID(needs[0])])
        await work.end(needs[1], tells=False)
        second = asyncio.create_task(settle(connection, [UUID(needs[1])]))
        watch = await connect()
        await waiting(watch, 1)
        await transaction.commit()
        await second
        assert await state(connection, task) == "ready"

    async def test_of_two_that_let_it_go_on_the_second_changes_nothing(
        self,
        client: httpx.AsyncClient,
        connection: asyncpg.Connection,
        connect: Connect,
        work: Work,
    ) -> None:
        need = await waiter(client)
        task = await waiter(client, need)
        await work.claim()
        await work.end(need, tells=False)
        other, watch = await connect(), await connect()
        transaction = other.transaction()
        await transaction.start()
        await settle(other, [UUID(need)])
        claimed = "UPDATE queue SET state = 'running', worker_id = $2, fence = 1, attempt = 1 WHERE task_id = $1"
        await other.execute(claimed, task, work.worker)
        second = asyncio.create_task(settle(connection, [UUID(need)]))
        await waiting(watch, 1)
        await transaction.commit()
        await second
        assert await state(connection, task) == "running"

    async def test_many_ends_and_creates_at_once_leave_nobody_behind(
        self,
        client: httpx.AsyncClient,
        connection: asyncpg.Connection,
        connect: Connect,
        work: Work,
    ) -> None:
        needs = [await waiter(client) for _ in range(20)]
        await work.claim()
        connections = [await connect() for _ in range(4)]
        held = [work.held[need] for need in needs]

        async def ends(number: int) -> None:
            for claimed in held[number::4]:
                finished = Finished(claimed.task_id, claimed.fence, Outcome.COMPLETED)
                ended = await end(connections[number], work.worker, [finished])
                await settle(connections[number], ended.awaited)

        creates = (waiter(client, *needs[n % 7 :: 3]) for n in range(30))
        made, *_ = await asyncio.gather(asyncio.gather(*creates), *map(ends, range(4)))
        assert {await state(connection, task) for task in made} == {"ready"}


class TestSweep:
    """What a sweep finds that nobody was told of."""

    async def test_an_end_whose_worker_died_before_it_told(
        self, client: httpx.AsyncClient, connection: asyncpg.Connection, work: Work
    ) -> None:
        need = await waiter(client)
        free, bad = await waiter(client, need), await waiter(client)
        cancelled = await waiter(client, bad)
        then = await waiter(client, cancelled)
        await work.claim()
        await work.end(need, tells=False)
        await work.end(bad, Outcome.FAILED, tells=False)
        await dependencies.sweep(connection, everything=False)
        assert await state(connection, free) == "blocked"
        await dependencies.sweep(connection, everything=True)
        assert await state(connection, free) == "ready"
        assert [(await look(client, t))["status"] for t in (cancelled, then)] == [
            "cancelled",
            "cancelled",
        ]

    async def test_an_open_need_is_left_alone(
        self, client: httpx.AsyncClient, connection: asyncpg.Connection
    ) -> None:
        tasks = [
            await waiter(client, (await create(client, handler=handler))["id"])
            for handler in (None, "noop")
        ]
        assert not await connection.fetch(statement("unresolved"), 10)
        await dependencies.sweep(connection, everything=True)
        assert [await state(connection, task) for task in tasks] == ["blocked", "blocked"]


class TestInput:
    """What is refused."""

    async def test_a_need_that_is_not_there_or_deleted(
        self, client: httpx.AsyncClient, connection: asyncpg.Connection
    ) -> None:
        gone = (await create(client))["id"]
        await client.delete(f"{TASKS}/{gone}")
        there = await waiter(client)
        for missing in (str(new_id()), gone):
            form = {"title": "a", "handler": "noop", "needs": [there, missing]}
            error = {"field": "needs", "message": f"there is no task {missing}"}
            assert check_problem(await client.post(TASKS, json=form), 422, "invalid_field")[
                "errors"
            ] == [error]
            rows = [{"title": "b"}, form | {"needs": [there]}, form]
            problem = check_problem(await post_batch(client, rows), 422, "invalid_field")
            assert problem["errors"] == [error | {"field": "tasks.2.needs"}]
        assert await connection.fetchval("SELECT count(*) FROM tasks WHERE deleted_at IS NULL") == 1

    @pytest.mark.parametrize(
        "fields",
        [
            {"handler": None},
            {"status": "completed"},
            {"needs": [str(new_id()) for _ in range(101)]},
            {"needs": ["x"]},
            {"needs": None},
        ],
    )
    async def test_what_cannot_wait(
        self, client: httpx.AsyncClient, fields: dict[str, Any]
    ) -> None:
        form = {"title": "a", "handler": "noop", "needs": [str(new_id())]} | fields
        problem = check_problem(await client.post(TASKS, json=form), 422, "invalid_field")
        assert {error["field"].split(".")[0] for error in problem["errors"]} == {"needs"}
