"""Streams of events over real sockets: nothing is missed and nothing comes twice, whatever happens in between."""

import asyncio
import contextlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest
import pytest_asyncio
from fastapi import FastAPI

from task_service.api.app import create_app
from task_service.api.http import sse
from task_service.domain.outcomes import Outcome
from task_service.domain.permissions import Role
from task_service.embedded import EmbeddedPostgres, free_port
from task_service.loops import loop
from task_service.migrations.upgrade import migrate
from task_service.queue.claims import Claim
from task_service.queue.results import Finished, GivenBack, finish, give_back
from task_service.server import Listening, _listening
from task_service.services import events as service
from task_service.settings import Settings
from task_service.store import events as store
from task_service.store.database import create_engine
from task_service.telemetry.metrics import EVENT_LAG_SECONDS, EVENT_STREAMS
from tests.integration.api.test_bad_input import check_problem
from tests.integration.api.test_tasks import TASKS, create
from tests.support.people import People
from tests.support.pooler import transaction_pooler
from tests.support.problems import check_field
from tests.support.service_settings import settings_for
from tests.support.sse import hearing
from tests.support.tasks import quiet_wakeups
from tests.support.waiting import eventually

pytestmark = pytest.mark.asyncio
EVENTS = "/api/v1/events"
Hold = Callable[[str], Awaitable[Claim]]
NOTE = "INSERT INTO task_history (task_id, new_status, changed_by) VALUES ($1, 'pending', $2)"
IN_ORDER = "SELECT transaction_id::text || '.' || id AS place FROM task_history ORDER BY transaction_id, id"


def patient(url: str, **more: object) -> Settings:
    """Settings with the leases of the product: a busy machine must not end transactions for being slow."""
    return settings_for(
        url, heartbeat_seconds=3, lease_seconds=15, db_pool_timeout_seconds=1, **more
    )


@pytest.fixture
def settings(database: str) -> Settings:
    return patient(database)


@contextlib.asynccontextmanager
async def serving(app: FastAPI) -> AsyncIterator[str]:
    """Serve an application as the product does; its address."""
    server: Listening = _listening(app, ("127.0.0.1", free_port()), 5)
    task = asyncio.create_task(server.serve())
    await asyncio.wait_for(server.listening.wait(), 10)
    async with loop.running(app.state.background):
        try:
            yield f"http://127.0.0.1:{server.config.port}"
        finally:
            await app.state.events.stop()
            server.should_exit = True
            await task


@contextlib.asynccontextmanager
async def product(settings: Settings) -> AsyncIterator[str]:
    """Another API process, but for the process."""
    engine = create_engine(settings)
    async with serving(create_app(settings, engine, quiet_wakeups())) as url:
        yield url
    await engine.dispose()


@pytest_asyncio.fixture
async def url(app: FastAPI) -> AsyncIterator[str]:
    async with serving(app) as url:
        yield url


@pytest_asyncio.fixture
async def api(url: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=url) as client:
        yield client


async def add_task(connection: asyncpg.Connection) -> UUID:
    """A task that no history tells of."""
    task_id = uuid4()
    await connection.execute(
        "INSERT INTO tasks (id, title, status) VALUES ($1, 'a', 'pending')", task_id
    )
    return task_id


async def no_stream(app: FastAPI) -> None:
    """Wait until no stream is open."""

    async def probe() -> bool:
        return not app.state.events._streams

    await eventually("the end of all streams", probe)


class TestWhatIsTold:
    async def test_changes_by_people_come_in_their_order_with_all_that_the_history_knows(
        self, api: httpx.AsyncClient, url: str
    ) -> None:
        async with hearing(url + EVENTS) as ear:
            task = await create(api)
            await ear.hears_number(1)
            await api.patch(
                f"{TASKS}/{task['id']}", json={"title": "b", "reason": "because\nof that"}
            )
            await api.patch(f"{TASKS}/{task['id']}", json={"status": "in_progress"})
            await api.patch(f"{TASKS}/{task['id']}", json={"status": "completed"})
            await ear.hears_number(4)
            assert ear.names() == [
                (task["id"], n) for n in ("created", "changed", "changed", "completed")
            ]
            told = ear.messages[1].data
            assert told | {"at": None} == {
                "event": "task.changed", "task_id": task["id"], "at": None, "previous_status": "pending",
                "status": "pending", "by": "anonymous", "reason": "because\nof that", "fields": ["title"],
                "attempt": None, "queue": "default", "handler": None,
            }  # fmt: skip
            assert told["at"].endswith("Z")
            assert ear.retry_ms == sse.RETRY_MS
            assert ear.answer.headers["cache-control"] == "no-store"
            assert ear.answer.headers["x-accel-buffering"] == "no"
            assert "content-encoding" not in ear.answer.headers
            assert "content-length" not in ear.answer.headers

    async def test_ends_of_attempts_come_with_their_outcome_and_worker(
        self, api: httpx.AsyncClient, url: str, held: Hold, connection: asyncpg.Connection
    ) -> None:
        async with hearing(url + EVENTS) as ear:
            task = await create(api, handler="noop")
            claim = await held(task["id"])
            worker = await connection.fetchval("SELECT worker_id FROM queue")
            back = GivenBack(claim.task_id, claim.fence, Outcome.FAILED, error="no")
            await give_back(connection, worker, [back])
            other = await held(task["id"])
            holder = await connection.fetchval("SELECT worker_id FROM queue")
            await finish(
                connection, holder, [Finished(other.task_id, other.fence, Outcome.COMPLETED)]
            )
            await ear.hears_number(3)
            assert ear.names() == [(task["id"], n) for n in ("created", "requeued", "completed")]
            assert [m.data["by"] for m in ear.messages[1:]] == [str(worker), str(holder)]
            assert [m.data["status"] for m in ear.messages] == ["pending", "pending", "completed"]
            assert [m.data["attempt"] for m in ear.messages] == [None, 1, 2]
            assert ear.messages[-1].id.endswith(f".{task['id']}.2")
        async with hearing(url + EVENTS, ear.messages[1].id) as again:
            await again.hears_number(1)
            assert again.messages == ear.messages[2:]

    async def test_conditions_choose(self, api: httpx.AsyncClient, url: str) -> None:
        async with (
            hearing(url + EVENTS, event="task.cancelled") as cancelled,
            hearing(url + EVENTS, status=["completed", "CANCELLED"]) as ended,
            hearing(url + EVENTS, queue="mail") as mail,
            hearing(url + EVENTS, handler="noop") as noop,
            hearing(url + EVENTS) as every,
        ):
            one = await create(api, queue="mail", handler="noop")
            two = await create(api)
            await api.post(f"{TASKS}/{one['id']}:cancel")
            await api.patch(f"{TASKS}/{two['id']}", json={"status": "completed"})
            async with hearing(url + EVENTS, "0", task_id=[two["id"], str(uuid4())]) as chosen:
                await chosen.hears_number(2)
            await every.hears_number(4)
            for ear, told in (
                (cancelled, [(one["id"], "cancelled")]), (ended, [(one["id"], "cancelled"), (two["id"], "completed")]),
                (mail, [(one["id"], "created"), (one["id"], "cancelled")]),
                (noop, [(one["id"], "created"), (one["id"], "cancelled")]),
                (chosen, [(two["id"], "created"), (two["id"], "completed")]),
            ):  # fmt: skip
                await ear.hears_number(len(told))
                assert ear.names() == told

    async def test_of_a_deleted_task_only_the_deletion_is_told(
        self, api: httpx.AsyncClient, url: str, held: Hold, connection: asyncpg.Connection
    ) -> None:
        task = await create(api, handler="noop")
        claim = await held(task["id"])
        worker = await connection.fetchval("SELECT worker_id FROM queue")
        async with hearing(url + EVENTS) as ear:
            await api.delete(f"{TASKS}/{task['id']}")
            await finish(
                connection, worker, [Finished(claim.task_id, claim.fence, Outcome.CANCELLED)]
            )
            after = await create(api)
            await ear.hears_number(2)
            assert ear.names() == [(task["id"], "deleted"), (after["id"], "created")]
        async with hearing(url + EVENTS, "0") as ear:
            await ear.hears_number(2)
            assert ear.names() == [(task["id"], "deleted"), (after["id"], "created")]

    async def test_of_a_task_that_is_gone_for_good_too_whatever_its_queue_was(
        self, api: httpx.AsyncClient, url: str
    ) -> None:
        task = await create(api, queue="mail", handler="noop")
        async with hearing(url + EVENTS, queue="mail", handler="noop") as ear:
            assert (
                await api.delete(f"{TASKS}/{task['id']}", params={"hard": "true"})
            ).status_code == 204
            [told] = await ear.hears_number(1)
            assert (told.event, told.data["queue"], told.data["reason"]) == (
                "task.deleted",
                None,
                "hard delete",
            )
        async with hearing(url + EVENTS, "0") as ear:
            await ear.hears_number(1)
            assert ear.names() == [(task["id"], "deleted")]

    async def test_the_stream_of_one_task_ends_with_it(
        self, api: httpx.AsyncClient, url: str
    ) -> None:
        task, other = await create(api), await create(api)
        path = f"{url}{TASKS}/{task['id']}/events"
        async with hearing(path) as ear:
            await api.patch(f"{TASKS}/{other['id']}", json={"title": "b"})
            await api.patch(f"{TASKS}/{task['id']}", json={"title": "b"})
            await ear.hears_number(1)
            await api.delete(f"{TASKS}/{task['id']}")
            await asyncio.wait_for(ear.ended.wait(), 10)
            assert not ear.broken
            assert ear.names() == [(task["id"], "changed"), (task["id"], "deleted")]
        check_problem(await api.get(f"{TASKS}/{task['id']}/events"), 404, "not_found")
        check_problem(await api.get(f"{TASKS}/{uuid4()}/events"), 404, "not_found")


class TestOrder:
    async def test_what_commits_late_is_waited_for_although_a_later_id_is_there(
        self, url: str, connection: asyncpg.Connection, database: str
    ) -> None:
        task_id = await add_task(connection)
        first, second = await asyncpg.connect(database), await asyncpg.connect(database)
        async with hearing(url + EVENTS) as ear:
            slow = first.transaction()
            await slow.start()
            await first.execute(NOTE, task_id, "first")
            await second.execute(NOTE, task_id, "second")
            begun = time.monotonic()

            async def held_back() -> bool:
                return EVENT_LAG_SECONDS._value.get() > 0.5

            await eventually("the lag", held_back)
            assert ear.messages == []
            await slow.commit()
            await ear.hears_number(2)
            assert time.monotonic() - begun < 10
            assert [m.data["by"] for m in ear.messages] == ["first", "second"]
            assert [m.id for m in ear.messages] == [
                r["place"] for r in await connection.fetch(IN_ORDER)
            ]

            async def caught_up() -> bool:
                return EVENT_LAG_SECONDS._value.get() == 0

            await eventually("no lag", caught_up)
        for one in (first, second):
            await one.close()

    async def test_connecting_anew_again_and_again_under_load_on_two_processes_misses_and_doubles_nothing(
        self, url: str, settings: Settings, connection: asyncpg.Connection, database: str
    ) -> None:
        task_id, chance = await add_task(connection), random.Random(7)
        writers = [asyncio.create_task(write(database, task_id, f"w{n}", 60)) for n in range(8)]
        heard: list[str] = []
        last = "0"
        async with product(settings) as other, hearing(url + EVENTS, last) as steady:
            while not all(w.done() for w in writers):
                async with hearing(chance.choice((url, other)) + EVENTS, last) as ear:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(0.5):
                            await ear.hears_number(chance.randrange(1, 40))
                heard += [m.id for m in ear.messages]
                last = ear.last_id
            await asyncio.gather(*writers)
            there = [r["place"] for r in await connection.fetch(IN_ORDER)]
            async with hearing(other + EVENTS, last) as ear:
                await ear.hears_number(len(there) - len(heard))
            heard += [m.id for m in ear.messages]
            await steady.hears_number(len(there))
        assert len(there) > 300
        assert heard == there
        assert [m.id for m in steady.messages] == there

    @pytest.mark.parametrize("leaves", [True, False], ids=["nobody is left", "the other one stays"])
    async def test_what_happens_while_a_first_page_is_on_its_way_is_not_missed(
        self,
        app: FastAPI,
        url: str,
        connection: asyncpg.Connection,
        monkeypatch: pytest.MonkeyPatch,
        leaves: bool,
    ) -> None:
        """The reader is ahead of who comes, and a look of its own is under way when it becomes who came's reader."""
        read, gates, held = service.read_events, dict[str, asyncio.Event](), set[str]()

        async def gated(*given: Any) -> store.Page:
            page, who = await read(*given), "stream" if len(given) > 4 else "reader"
            if who in gates:
                held.add(who)
                await gates[who].wait()
            return page

        monkeypatch.setattr(service, "read_events", gated)
        task_id = await add_task(connection)
        async with contextlib.AsyncExitStack() as leaving:
            other = await leaving.enter_async_context(hearing(url + EVENTS))
            gates["stream"] = asyncio.Event()
            coming = asyncio.create_task(hear_number(url + EVENTS, other.last_id, 3))
            await eventually("the page", lambda: _is("stream" in held))
            await connection.execute(NOTE, task_id, "while the page is on its way")
            await other.hears_number(1)
            if leaves:
                gates["reader"] = asyncio.Event()
                await eventually("a look", lambda: _is("reader" in held))
                await leaving.aclose()
                await eventually("nobody else", lambda: _is(EVENT_STREAMS._value.get() == 1))
            await connection.execute(NOTE, task_id, "after the look")
            gates.pop("stream").set()
            await eventually("its place", lambda: _is(app.state.events._live))
            for gate in gates.values():
                gate.set()
            gates.clear()
            await connection.execute(NOTE, task_id, "at last")
            assert await coming == [r["place"] for r in await connection.fetch(IN_ORDER)]

    async def test_a_stream_that_falls_behind_reads_on_by_itself(
        self, url: str, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(service, "WAITING_MAX", 5)
        monkeypatch.setattr(service, "PAGE", 7)
        task_id = await add_task(connection)
        many = "INSERT INTO task_history (task_id, new_status) SELECT $1, 'pending' FROM generate_series(1, 400)"
        async with hearing(url + EVENTS) as ear:
            for _ in range(3):
                await connection.execute(many, task_id)
            await ear.hears_number(1200)
            assert [m.id for m in ear.messages] == [
                r["place"] for r in await connection.fetch(IN_ORDER)
            ]

    async def test_runs_of_one_transaction_can_be_told_apart(
        self, url: str, connection: asyncpg.Connection
    ) -> None:
        await connection.execute(
            "WITH new AS (INSERT INTO tasks (id, title, handler) SELECT gen_random_uuid(), 'a', 'noop'"
            " FROM generate_series(1, 30) RETURNING id)"
            " INSERT INTO runs (task_id, fence, attempt, outcome, final)"
            " SELECT id, f, f, CASE f WHEN 1 THEN 'failed' ELSE 'completed' END, f = 2"
            " FROM new, generate_series(1, 2) AS f"
        )
        async with hearing(url + EVENTS, "0") as ear:
            await ear.hears_number(60)
        assert len({m.id for m in ear.messages}) == 60
        for at in (0, 13, 58):
            async with hearing(url + EVENTS, ear.messages[at].id) as rest:
                await rest.hears_number(59 - at)
            assert rest.messages == ear.messages[at + 1 :]

    async def test_events_are_read_by_their_index(self, crowded: asyncpg.Connection) -> None:
        await crowded.execute(
            "INSERT INTO task_history (task_id, new_status) SELECT id, 'pending' FROM tasks"
        )
        await crowded.execute("ANALYZE task_history, runs, tasks")
        last = await crowded.fetchval("SELECT max(transaction_id)::text FROM task_history")
        await crowded.execute("SET plan_cache_mode = force_custom_plan")
        given = [last, 10, store.NONE, -1, str(int(last) + 1), 500]
        for text, values in (
            (store.HORIZON, []),
            (store.OF_ALL, given),
            (store.OF_TASK, [*given, [uuid4()]]),
        ):
            plan = "\n".join(r[0] for r in await crowded.fetch(f"EXPLAIN {text}", *values))
            assert "Seq Scan on task_history" not in plan, plan
            assert "Seq Scan on runs" not in plan, plan
            assert "Seq Scan on tasks" not in plan, plan


async def hear_number(url: str, after: str, number: int) -> list[str]:
    """The ids of the next events."""
    async with hearing(url, after) as ear:
        return [m.id for m in await ear.hears_number(number)]


async def write(database: str, task_id: UUID, name: str, transactions: int) -> None:
    """Transactions of one to three lines that stay open for a while, or are rolled back, in an order of chance."""
    chance, connection = random.Random(name), await asyncpg.connect(database)
    for number in range(transactions):
        transaction = connection.transaction()
        await transaction.start()
        for _ in range(chance.randrange(1, 4)):
            await connection.execute(NOTE, task_id, f"{name} {number}")
            await asyncio.sleep(chance.random() * 0.02)
        await (transaction.rollback() if chance.random() < 0.1 else transaction.commit())
    await connection.close()


class TestCursors:
    @pytest.mark.parametrize(
        "given",
        [
            "x",
            "-1",
            "1.",
            "1.2.3",
            "1.-2",
            " 1",
            "1 2",
            "\N{ARABIC-INDIC DIGIT ONE}",
            "1e3",
            "9" * 19,
            "9" * 5000,
            f"1.{uuid4()}",
            "1.2;DROP",
        ],
    )
    async def test_an_id_that_is_none_is_refused_by_name(
        self, api: httpx.AsyncClient, given: str
    ) -> None:
        said = check_field(await api.get(EVENTS, params={"last_event_id": given}), "last_event_id")
        assert "start now" in said
        header = given.encode().strip() or b"x"
        answer = await api.get(EVENTS, headers={b"Last-Event-ID": b"~" + header})
        assert "start now" in check_field(answer, "Last-Event-ID")

    async def test_unknown_and_wrong_conditions_are_refused_by_name(
        self, api: httpx.AsyncClient
    ) -> None:
        for name, value in (
            ("event", "task.eaten"),
            ("status", "done"),
            ("task_id", "7"),
            ("queue", "a b"),
            ("que", "a"),
        ):
            check_field(await api.get(EVENTS, params={name: value}), name)

    async def test_the_header_wins_over_the_parameter_with_which_a_page_began(
        self, api: httpx.AsyncClient, url: str
    ) -> None:
        for _ in range(3):
            await create(api)
        async with hearing(url + EVENTS, last_event_id="0") as ear:
            await ear.hears_number(3)
        async with hearing(url + EVENTS, ear.messages[1].id, last_event_id="0") as rest:
            await rest.hears_number(1)
            assert rest.messages == ear.messages[2:]

    async def test_a_silent_stream_has_an_id_to_come_back_with(
        self, api: httpx.AsyncClient, url: str
    ) -> None:
        async with hearing(url + EVENTS) as ear:
            assert ear.last_id
        task = await create(api)
        async with hearing(url + EVENTS, ear.last_id) as again:
            await again.hears_number(1)
            assert again.names() == [(task["id"], "created")]

    async def test_an_id_of_another_database_or_of_before_a_restore_is_told_to_reset_and_goes_on_from_now(
        self, api: httpx.AsyncClient, url: str
    ) -> None:
        await create(api)
        async with hearing(url + EVENTS, "4000000000.7") as ear:
            [reset] = await ear.hears_number(1)
            assert reset.event == "reset"
            task = await create(api)
            await ear.hears_number(2)
            assert (ear.messages[1].event, ear.messages[1].data["task_id"]) == (
                "task.created",
                task["id"],
            )
        async with hearing(url + EVENTS, reset.id) as again:
            await again.hears_number(1)
            assert again.messages == ear.messages[1:]


@pytest.fixture
def own_postgres() -> Iterator[EmbeddedPostgres]:
    """A server that a test may stop."""
    folder = Path(tempfile.mkdtemp(prefix="task-service-test-", dir="/var/tmp"))
    server = EmbeddedPostgres(folder, options={"fsync": "off"})
    server.start()
    yield server
    server.stop()
    shutil.rmtree(folder, ignore_errors=True)


class TestTrouble:
    async def test_what_a_dump_brought_from_another_cluster_is_no_news_here(
        self, api: httpx.AsyncClient, url: str, connection: asyncpg.Connection, app: FastAPI
    ) -> None:
        task = await create(api)
        await connection.execute("UPDATE task_history SET transaction_id = '7000000000'")
        async with hearing(url + EVENTS, "0") as ear:
            await migrate(app.state.context.engine)
            await create(api)
            await ear.hears_number(1)
            assert task["id"] not in [told for told, _ in ear.names()]
        async with hearing(url + EVENTS, "0") as ear:
            await ear.hears_number(2)
            assert ear.names()[0] == (task["id"], "created")

    async def test_a_lost_listener_is_replaced_and_nothing_is_lost(
        self, api: httpx.AsyncClient, url: str, connection: asyncpg.Connection
    ) -> None:
        async with hearing(url + EVENTS) as ear:
            await create(api)
            await ear.hears_number(1)
            lost = await connection.fetchval(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            assert lost >= 1
            ids = []
            for _ in range(3):
                answer = await api.post(TASKS, json={"title": "a"})
                if answer.status_code == 201:
                    ids.append(answer.json()["id"])
            assert ids
            await ear.hears_number(1 + len(ids))
            assert [name for name, _ in ear.names()][1:] == ids

    async def test_what_wakes_workers_wakes_the_streams_too(self, settings: Settings) -> None:
        seldom = settings.model_copy(update={"event_poll_seconds": 60})
        async with (
            product(seldom) as url,
            httpx.AsyncClient(base_url=url) as api,
            hearing(url + EVENTS) as ear,
        ):

            async def listens() -> bool:
                await create(api, handler="noop")
                return bool(ear.messages)

            await eventually("an event without a poll", listens)

    async def test_behind_a_pooler_there_is_no_listening_and_everything_comes(
        self, database: str
    ) -> None:
        with transaction_pooler(database) as pooled:
            settings = patient(pooled, database_pooler=True)
            async with product(settings) as url, httpx.AsyncClient(base_url=url) as api:

                async def answers() -> bool:
                    return (await api.get(TASKS)).status_code == 200

                await eventually("the pooler's first answer", answers)
                async with hearing(url + EVENTS) as ear:
                    ids = [(await create(api, handler="noop"))["id"] for _ in range(20)]
                    await ear.hears_number(20)
                    assert [task for task, _ in ear.names()] == ids

    @pytest.mark.parametrize("mode", [signal.SIGINT, signal.SIGQUIT], ids=["shut down", "crashed"])
    async def test_a_stream_lives_through_a_restart_of_the_database(
        self, own_postgres: EmbeddedPostgres, mode: signal.Signals
    ) -> None:
        settings = patient(own_postgres.url())
        engine = create_engine(settings)
        await migrate(engine)
        await engine.dispose()
        async with (
            product(settings) as url,
            httpx.AsyncClient(base_url=url) as api,
            hearing(url + EVENTS) as ear,
        ):
            before = await create(api)
            await ear.hears_number(1)
            await asyncio.to_thread(own_postgres.stop, mode)
            check_problem(await api.get(EVENTS), 503, "unavailable")
            await asyncio.to_thread(own_postgres.start)
            after = await create(api)
            await ear.hears_number(2)
            assert ear.names() == [(before["id"], "created"), (after["id"], "created")]
            async with hearing(url + EVENTS, ear.messages[0].id) as again:
                await again.hears_number(1)
                assert again.messages == ear.messages[1:]

    async def test_a_client_that_takes_nothing_is_left_and_goes_on_where_it_was(
        self,
        app: FastAPI,
        url: str,
        connection: asyncpg.Connection,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(sse, "SEND_SECONDS", 0.3)
        task_id = await add_task(connection)
        async with hearing(url + EVENTS) as begun:
            last = begun.last_id
        reader, writer = await stuck_client(url, last)
        await connection.execute(
            "INSERT INTO task_history (task_id, new_status, reason)"
            " SELECT $1, 'pending', repeat('x', 500) FROM generate_series(1, 30000)",
            task_id,
        )
        await eventually("a stream", lambda: _is(bool(app.state.events._streams)))
        await no_stream(app)
        taken = 0
        with contextlib.suppress(ConnectionError):
            while piece := await asyncio.wait_for(reader.read(65536), 10):
                taken += len(piece)
        assert taken < 15_000_000
        writer.close()
        async with hearing(url + EVENTS, last) as ear:
            await ear.hears_number(30_000, 60)
        assert len({m.id for m in ear.messages}) == 30_000

    async def test_there_is_an_end_to_the_number_of_streams(self, settings: Settings) -> None:
        few = settings.model_copy(update={"event_streams_max": 2})
        async with (
            product(few) as url,
            httpx.AsyncClient(base_url=url) as api,
            hearing(url + EVENTS),
        ):
            async with hearing(url + EVENTS):
                answer = await api.get(EVENTS)
                check_problem(answer, 503, "unavailable")
                assert answer.headers["retry-after"]

            async def free() -> bool:
                async with hearing(url + EVENTS) as ear:
                    return ear.answer.status_code == 200

            await eventually("a free place", free)

    async def test_nothing_is_asked_of_the_database_while_nobody_listens(
        self, app: FastAPI, url: str, connection: asyncpg.Connection
    ) -> None:
        listeners = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE '%xmin%'"
        async with hearing(url + EVENTS):
            await eventually("the reader", lambda: _is(app.state.events._connection is not None))
            assert EVENT_STREAMS._value.get() == 1
        await no_stream(app)
        await eventually("its end", lambda: _is(app.state.events._connection is None))
        await app.state.context.engine.dispose()

        async def quiet() -> bool:
            return await connection.fetchval(listeners + " AND pid <> pg_backend_pid()") == 0

        await eventually("no session that asks", quiet)
        assert EVENT_STREAMS._value.get() == 0

    async def test_a_process_that_stops_is_not_held_up_by_its_streams(
        self, database: str, connection: asyncpg.Connection, tmp_path: Path
    ) -> None:
        port, management_port = free_port(), free_port()
        given = {
            "DATABASE_URL": database, "HOST": "127.0.0.1", "PORT": port, "MANAGEMENT_HOST": "127.0.0.1",
            "MANAGEMENT_PORT": management_port, "AUTH_MODE": "open", "SECRET_KEY": "x" * 40, "RUNTIME_DIR": tmp_path,
        }  # fmt: skip
        env = os.environ | {name: str(value) for name, value in given.items()}
        argv = [sys.executable, "-m", "task_service.cli", "api"]
        process = await asyncio.create_subprocess_exec(*argv, env=env, cwd="/")
        try:
            url = f"http://127.0.0.1:{port}"
            await eventually("the server", lambda: _answers(url), 60)
            task_id = await add_task(connection)
            async with contextlib.AsyncExitStack() as stack:
                quiet = {"event": "task.deleted"}
                conditions = [{}, *[quiet] * 20]
                ears = [
                    await stack.enter_async_context(hearing(url + EVENTS, **c)) for c in conditions
                ]
                _, writer = await stuck_client(url, "0")
                await connection.execute(
                    "INSERT INTO task_history (task_id, new_status, reason)"
                    " SELECT $1, 'pending', repeat('x', 500) FROM generate_series(1, 20000)",
                    task_id,
                )
                await ears[0].hears_number(20_000, 60)
                begun = time.monotonic()
                process.terminate()
                assert await asyncio.wait_for(process.wait(), 20) == 0
                assert (
                    time.monotonic() - begun < 10
                )  # uvicorn alone would wait for SHUTDOWN_SECONDS, 30
                for ear in ears:
                    await asyncio.wait_for(ear.ended.wait(), 5)
                    assert not ear.broken  # the last chunk came
                writer.close()
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


class TestPermission:
    async def test_a_stream_takes_a_token_and_ends_when_it_is_good_no_more(
        self, people: People, monkeypatch: pytest.MonkeyPatch, connection: asyncpg.Connection
    ) -> None:
        monkeypatch.setattr(sse, "BEAT_SECONDS", 0.3)
        users = [await people.register(name, Role.VIEWER) for name in ("ada", "bob")]
        ada, bob = map(people.token, users)
        async with serving(people.app) as url, httpx.AsyncClient(base_url=url) as api:
            check_problem(await api.get(EVENTS), 401, "unauthorized")
            check_problem(await api.get(f"{TASKS}/{uuid4()}/events"), 401, "unauthorized")
            async with (
                hearing(url + EVENTS, token=ada) as one,
                hearing(url + EVENTS, token=bob) as other,
            ):
                await eventually("a beat", lambda: _is(one.comments))
                await connection.execute(
                    "UPDATE users SET disabled_at = now() WHERE username = 'ada'"
                )
                await asyncio.wait_for(one.ended.wait(), 10)
                assert not one.broken
                assert not other.ended.is_set()
                await connection.execute("UPDATE users SET token_version = token_version + 1")
                await asyncio.wait_for(other.ended.wait(), 10)
            check_problem(
                await api.get(EVENTS, headers={"authorization": f"Bearer {ada}"}),
                401,
                "invalid_token",
            )

    async def test_a_token_that_runs_out_ends_the_stream_also_under_load(
        self, people: People, monkeypatch: pytest.MonkeyPatch, connection: asyncpg.Connection
    ) -> None:
        monkeypatch.setattr(sse, "BEAT_SECONDS", 0.3)
        tokens: Any = people.app.state.authenticator.credentials.tokens
        monkeypatch.setattr(tokens, "access_life", timedelta(seconds=4))
        user, task_id = await people.register("ada", Role.VIEWER), await add_task(connection)
        async with serving(people.app) as url:
            load = asyncio.create_task(write_on(connection, task_id))
            async with hearing(url + EVENTS, token=people.token(user)) as ear:
                await asyncio.wait_for(ear.ended.wait(), 20)
                assert ear.messages
                assert not ear.broken
            load.cancel()
            await asyncio.gather(load, return_exceptions=True)


async def write_on(connection: asyncpg.Connection, task_id: UUID) -> None:
    """Change without an end."""
    while True:
        await connection.execute(NOTE, task_id, "somebody")
        await asyncio.sleep(0.001)


async def _is(value: Any) -> bool:
    return bool(value)


async def _answers(url: str) -> bool:
    with contextlib.suppress(httpx.TransportError):
        async with httpx.AsyncClient() as client:
            return (await client.get(f"{url}/health")).status_code == 200
    return False


async def stuck_client(url: str, after: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A client that asks for a stream and then reads nothing but what its own buffer takes."""
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=1024)
    writer.write(f"GET {EVENTS} HTTP/1.1\r\nhost: x\r\nlast-event-id: {after}\r\n\r\n".encode())
    await reader.readuntil(b"\r\n\r\n")
    return reader, writer
