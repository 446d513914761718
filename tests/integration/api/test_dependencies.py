"""Tasks that wait until all tasks they need have ended."""

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
from task_service.queue.dependencies import resolve_dependents
from task_service.queue.entries import Entry, enqueue
from task_service.queue.limits import Admission, admit
from task_service.queue.results import Finished, finish_batch
from task_service.queue.statements import statement
from tests.support.locks import wait_for_blocked_sessions
from tests.support.problems import check_problem
from tests.support.task_api import TASKS, create_task, post_batch
from tests.support.tasks import add_worker, quiet_wakeups

pytestmark = pytest.mark.asyncio
Connect = Callable[[], Awaitable[asyncpg.Connection]]


@pytest_asyncio.fixture(autouse=True)
async def _blocked_tasks_have_dependencies(connection: asyncpg.Connection) -> AsyncIterator[None]:
    """Check that exactly the tasks with dependencies are blocked."""
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
    """Function that opens further connections; their transactions end with the test."""
    connections_opened: list[asyncpg.Connection] = []

    async def open_connection() -> asyncpg.Connection:
        connections_opened.append(await asyncpg.connect(database))
        return connections_opened[-1]

    yield open_connection
    for each in connections_opened:
        await each.close()


async def create_waiter(client: httpx.AsyncClient, *needs: str, **fields: Any) -> str:
    """Create a task that needs these, and return its id."""
    return str((await create_task(client, handler="noop", needs=list(needs), **fields))["id"])


async def read_task(client: httpx.AsyncClient, task: str) -> dict[str, Any]:
    response = await client.get(f"{TASKS}/{task}")
    assert response.status_code == 200, response.text
    return dict(response.json())


async def queue_state(connection: asyncpg.Connection, task: str) -> str | None:
    return await connection.fetchval("SELECT state FROM queue WHERE task_id = $1", task)  # type: ignore[no-any-return]


class FakeWorker:
    """A worker that is only a row: it claims all tasks and finishes them when the test asks for it."""

    def __init__(self, connection: asyncpg.Connection, worker_id: UUID) -> None:
        self.connection, self.id = connection, worker_id
        self.held: dict[str, Claim] = {}

    async def claim(self) -> set[str]:
        claims = await claim(self.connection, self.id, Bounds(["default"]), 100, start_at_once=True)
        self.held |= {str(c.task_id): c for c in claims}
        return {str(c.task_id) for c in claims}

    async def end(
        self, task: str, outcome: Outcome = Outcome.COMPLETED, *, settles: bool = True
    ) -> None:
        held = self.held.pop(task)
        ended = await finish_batch(
            self.connection, self.id, [Finished(held.task_id, held.fence, outcome)]
        )
        assert not ended.lost
        if settles:
            await resolve_dependents(self.connection, ended.awaited)


@pytest_asyncio.fixture
async def worker(connection: asyncpg.Connection) -> FakeWorker:
    return FakeWorker(connection, await add_worker(connection))


class TestOrder:
    """The order of execution."""

    async def test_task_waits_for_everything_it_needs(
        self, client: httpx.AsyncClient, connection: asyncpg.Connection, worker: FakeWorker
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

    async def test_fan_out_and_fan_in(self, client: httpx.AsyncClient, worker: FakeWorker) -> None:
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
        self, client: httpx.AsyncClient, connection: asyncpg.Connection, worker: FakeWorker
    ) -> None:
        ended = await create_waiter(client)
        await worker.claim()
        await worker.end(ended)
        done = (await create_task(client, status="completed"))["id"]
        assert await queue_state(connection, await create_waiter(client, ended, done)) == "ready"

    async def test_task_waits_for_a_manual_task_until_it_is_completed(
        self, client: httpx.AsyncClient, connection: asyncpg.Connection
    ) -> None:
        person = (await create_task(client))["id"]
        task = await create_waiter(client, person)
        for status, expected in (("in_progress", "blocked"), ("completed", "ready")):
            await client.patch(f"{TASKS}/{person}", json={"status": status})
            await dependencies.sweep(connection, everything=False)
            assert await queue_state(connection, task) == expected

    async def test_task_waits_for_a_manual_task_that_gets_a_handler(
        self, client: httpx.AsyncClient, connection: asyncpg.Connection, worker: FakeWorker
    ) -> None:
        person = (await create_task(client))["id"]
        task = await create_waiter(client, person)
        await client.patch(f"{TASKS}/{person}", json={"handler": "noop"})
        assert await worker.claim() == {person}
        await worker.end(person)
        assert await worker.claim() == {task}

    async def test_task_does_not_run_before_its_own_run_at(
        self, client: httpx.AsyncClient, connection: asyncpg.Connection, worker: FakeWorker
    ) -> None:
        need = await create_waiter(client)
        later = await create_waiter(client, need, run_at="2999-01-01T00:00:00Z")
        await worker.claim()
        await worker.end(need)
        assert await queue_state(connection, later) == "ready"
        assert (await read_task(client, later))["status"] == "scheduled"

    async def test_retry_of_a_needed_task_does_not_release_its_dependents(
        self, client: httpx.AsyncClient, connection: asyncpg.Connection
    ) -> None:
        need = await create_waiter(client)
        task = await create_waiter(client, need)
        await client.patch(
            f"{TASKS}/{need}", json={"priority": "low", "run_at": "2999-01-01T00:00:00Z"}
        )
        await client.post(f"{TASKS}/{need}:retry")
        await dependencies.sweep(connection, everything=True)
        assert await queue_state(connection, task) == "blocked"


class TestFailure:
    """Dependents of a task that does not complete."""

    @pytest.mark.parametrize(
        "outcome", [Outcome.FAILED, Outcome.TIMED_OUT, Outcome.CANCELLED, Outcome.DISCARDED]
    )
    async def test_dependents_are_cancelled_with_the_reason_or_run_by_choice(
        self, client: httpx.AsyncClient, worker: FakeWorker, outcome: Outcome
    ) -> None:
        good, bad = await create_waiter(client), await create_waiter(client)
        cancelled = await create_waiter(client, good, bad)
        runs = await create_waiter(client, good, bad, when_failed="run")
        await worker.claim()
        await worker.end(bad, outcome)
        status = "cancelled" if outcome is Outcome.CANCELLED else "failed"
        why = f"the task {bad}, which it needs, is {status}"
        seen = await read_task(client, cancelled)
        assert (seen["status"], seen["error"], seen["waits_for"]) == ("cancelled", why, [])
        [run] = (await client.get(f"{TASKS}/{cancelled}/runs")).json()["items"]
        assert (run["outcome"], run["reason"], run["worker_id"]) == ("cancelled", why, None)
        history = (await client.get(f"{TASKS}/{cancelled}/history")).json()["items"]
        assert (history[-1]["new_status"], history[-1]["reason"]) == ("cancelled", why)
        assert (await read_task(client, runs))["waits_for"] == [good]
        assert await worker.claim() == set()
        await worker.end(good)
        assert await worker.claim() == {runs}

    async def test_cancellation_spreads_to_indirect_dependents(
        self, client: httpx.AsyncClient, worker: FakeWorker
    ) -> None:
        bad = await create_waiter(client)
        chain = [bad]
        for _ in range(4):
            chain.append(await create_waiter(client, chain[-1]))
        runs = await create_waiter(client, chain[-1], when_failed="run")
        await worker.claim()
        await worker.end(bad, Outcome.FAILED)
        for before, task in pairwise(chain[1:]):
            assert (await read_task(client, task))[
                "error"
            ] == f"the task {before}, which it needs, is cancelled"
        assert await worker.claim() == {runs}

    async def test_task_that_needs_a_failed_task_is_cancelled_on_creation(
        self, client: httpx.AsyncClient
    ) -> None:
        bad = (await create_task(client, status="failed"))["id"]
        made = await create_task(client, handler="noop", needs=[bad])
        assert (made["status"], made["error"]) == (
            "cancelled",
            f"the task {bad}, which it needs, is failed",
        )
        assert (await create_task(client, handler="noop", needs=[bad], when_failed="run"))[
            "status"
        ] == "pending"

    @pytest.mark.parametrize("way", ["cancel", "failed", "delete", "erase"])
    @pytest.mark.parametrize("handler", [None, "noop"])
    async def test_sweep_handles_ends_that_users_caused(
        self,
        client: httpx.AsyncClient,
        connection: asyncpg.Connection,
        way: str,
        handler: str | None,
    ) -> None:
        need = (await create_task(client, handler=handler))["id"]
        task = await create_waiter(client, need)
        match way:
            case "cancel":
                await client.post(f"{TASKS}/{need}:cancel")
            case "failed":
                await client.patch(f"{TASKS}/{need}", json={"status": "failed"})
            case _:
                await client.delete(f"{TASKS}/{need}", params={"hard": way == "erase"})
        await dependencies.sweep(connection, everything=False)
        words = {"failed": "failed", "erase": "deleted"}
        assert (await read_task(client, task))[
            "error"
        ] == f"the task {need}, which it needs, is {words.get(way, 'cancelled')}"

    async def test_retry_of_a_cancelled_dependent_waits_for_nothing(
        self, client: httpx.AsyncClient, worker: FakeWorker
    ) -> None:
        bad, goes_on = await create_waiter(client), await create_waiter(client)
        task = await create_waiter(client, bad, goes_on)
        await worker.claim()
        await worker.end(bad, Outcome.FAILED)
        assert (await client.post(f"{TASKS}/{task}:retry")).json()["status"] == "pending"
        assert await worker.claim() == {task}
        await worker.end(task)
        assert (await read_task(client, task))["status"] == "completed"


class TestWaiters:
    """Requests on a task that waits."""

    async def test_blocked_task_can_be_changed_and_stays_blocked(
        self, client: httpx.AsyncClient, connection: asyncpg.Connection, worker: FakeWorker
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
        self,
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
        self, client: httpx.AsyncClient, connection: asyncpg.Connection, worker: FakeWorker
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
        self, client: httpx.AsyncClient, connection: asyncpg.Connection
    ) -> None:
        task = await create_waiter(client, await create_waiter(client))
        await client.post(f"{TASKS}/{task}:cancel")
        await dependencies.sweep(connection, everything=True)
        assert await connection.fetchval("SELECT count(*) FROM dependencies") == 0

    async def test_queue_figures_count_blocked_tasks(self, client: httpx.AsyncClient) -> None:
        need = await create_waiter(client)
        for _ in range(2):
            await create_waiter(client, need)
        [queue] = (await client.get("/api/v1/queues")).json()["queues"]
        assert (queue["ready"], queue["blocked"]) == (1, 2)


class TestRaces:
    """Races of ends with creates and with each other."""

    @pytest.mark.parametrize("commits", [True, False])
    async def test_create_waits_for_an_uncommitted_end(
        self,
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
        self,
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
        self, client: httpx.AsyncClient, connection: asyncpg.Connection, connect: Connect, way: str
    ) -> None:
        need, task = (await create_task(client))["id"], await create_waiter(client)
        other = await connect()
        transaction = other.transaction()
        await transaction.start()
        assert not await dependencies.add_needs(
            other, [dependencies.Need(UUID(task), UUID(need), cancels=False)]
        )
        if way == "status":
            ends = asyncio.create_task(
                client.patch(f"{TASKS}/{need}", json={"status": "completed"})
            )
        else:
            ends = asyncio.create_task(client.delete(f"{TASKS}/{need}", params={"hard": True}))
        await wait_for_blocked_sessions(connection, 1)
        await transaction.commit()
        assert (await ends).status_code < 300
        await dependencies.sweep(connection, everything=False)
        assert await queue_state(connection, task) == "ready"

    async def test_create_waits_for_a_task_that_is_being_reopened(
        self,
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
        await other.execute(
            "UPDATE runs SET final = false, reopened = true WHERE task_id = $1", need
        )
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
        self,
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
        self,
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
        self,
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
        made, *_ = await asyncio.gather(asyncio.gather(*creates), *map(ends, range(4)))
        assert {await queue_state(connection, task) for task in made} == {"ready"}


class TestSweep:
    """Dependents that only a sweep releases."""

    async def test_sweep_settles_ends_of_workers_that_died_before_settling(
        self, client: httpx.AsyncClient, connection: asyncpg.Connection, worker: FakeWorker
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
        self, client: httpx.AsyncClient, connection: asyncpg.Connection
    ) -> None:
        tasks = [
            await create_waiter(client, (await create_task(client, handler=handler))["id"])
            for handler in (None, "noop")
        ]
        assert not await connection.fetch(statement("list_unresolved_dependents"), 10)
        await dependencies.sweep(connection, everything=True)
        assert [await queue_state(connection, task) for task in tasks] == ["blocked", "blocked"]


class TestInput:
    """Invalid requests."""

    async def test_missing_or_deleted_dependency_is_rejected(
        self, client: httpx.AsyncClient, connection: asyncpg.Connection
    ) -> None:
        gone = (await create_task(client))["id"]
        await client.delete(f"{TASKS}/{gone}")
        there = await create_waiter(client)
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
    async def test_invalid_dependencies_are_rejected(
        self, client: httpx.AsyncClient, fields: dict[str, Any]
    ) -> None:
        form = {"title": "a", "handler": "noop", "needs": [str(new_id())]} | fields
        problem = check_problem(await client.post(TASKS, json=form), 422, "invalid_field")
        assert {error["field"].split(".")[0] for error in problem["errors"]} == {"needs"}
