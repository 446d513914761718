"""How many connections a worker has, who must not wait for whom, and what each of them costs the server."""

import asyncio

import asyncpg
import pytest

from task_service.queue.claims import Bounds, claim_in_turn, turns_of
from task_service.services import schedules
from task_service.services.context import Context as ServiceContext
from task_service.store.database import Connection, connect, create_engine
from task_service.store.persistent_connection import KeptConnection
from task_service.worker.handlers import Context, handler
from task_service.worker.listener import WORKER_CHANNEL
from task_service.worker.process import HANDLERS_CONNECTIONS
from tests.integration.queue.test_limits import set_limit
from tests.integration.worker.conftest import StartWorker
from tests.support.service_settings import settings_for
from tests.support.tasks import add_tasks, add_worker, quiet_wakeups
from tests.support.waiting import eventually

pytestmark = pytest.mark.asyncio
WORKERS = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'task-service'"
CLAIMING = (
    "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND query LIKE '-- Claim%'"
)
BEATING = """
    SELECT pid FROM pg_stat_activity
    WHERE datname = current_database() AND query LIKE '-- Renew%' AND query_start > $1 AND pid <> ALL ($2::integer[])
"""
ENDED = "SELECT count(*) FROM runs WHERE final"


async def ended(connection: asyncpg.Connection, count: int) -> None:
    async def all_of_them() -> bool:
        return bool(await connection.fetchval(ENDED) == count)

    await eventually(f"the end of {count} tasks", all_of_them)


async def test_a_worker_has_four_connections_whatever_it_is_at(
    connection: asyncpg.Connection, database: str, start_worker: StartWorker
) -> None:
    @handler("tells")
    async def tells(context: Context) -> None:
        context.progress(0.5)
        await asyncio.sleep(0.001)

    settings = settings_for(database, use_optional_servers=False)
    engine = create_engine(settings)
    context = ServiceContext(settings, engine, quiet_wakeups())
    await context.write(lambda c: schedules.ensure_own(c, settings))
    await engine.dispose()
    await set_limit(connection, "key", "seven", concurrency=7)
    quick = {"heartbeat_seconds": 0.05, "poll_seconds": 0.05, "schedule_poll_seconds": 0.05}
    await start_worker(tells, database_url=database, **quick)
    for _ in range(5):
        await add_tasks(connection, 500, handler="tells")
        await add_tasks(connection, 40, handler="tells", limit_key="seven")
    await ended(connection, 5 * 540)
    # What is opened stays open for minutes: this is the most that there were.
    assert 2 <= await connection.fetchval(WORKERS) <= 4


async def test_a_task_is_claimed_also_where_those_who_have_the_turns_stand_still(
    connection: asyncpg.Connection, database: str, start_worker: StartWorker
) -> None:
    @handler("noop")
    async def noop(_: Context) -> None: ...

    theirs, other = await asyncpg.connect(database), await add_worker(connection)
    async with theirs.transaction():
        for turn in turns_of(["default"]):
            bounds = Bounds(["default"])
            assert (
                await claim_in_turn(theirs, other, bounds, 0, turn, start_at_once=True, behind=True)
                == []
            )
        await start_worker(noop)
        await add_tasks(connection, 3, handler="noop")
        await ended(connection, 3)
    await theirs.close()


async def test_a_worker_that_lost_the_connection_on_which_it_claims_hears_of_tasks_all_the_same(
    connection: asyncpg.Connection, start_worker: StartWorker
) -> None:
    """It connects at once, not with its next look for tasks, which may be far away."""

    @handler("noop")
    async def noop(_: Context) -> None: ...

    async def claiming() -> int | None:
        found = await connection.fetch(f"{CLAIMING} AND state = 'idle'")
        return int(found[0]["pid"]) if len(found) == 1 else None

    await start_worker(noop, polls=False)
    for count in (1, 2, 3):
        pid = await eventually("the connection on which it claims", claiming)
        await add_tasks(connection, handler="noop")
        await connection.execute("SELECT pg_notify('task_service_queue', 'default')")
        await ended(connection, count)
        await connection.execute("SELECT pg_terminate_backend($1)", pid)


async def test_a_kept_connection_is_opened_anew_after_a_failure_and_tells_only_of_its_loss(
    database: str, connection: asyncpg.Connection
) -> None:
    kept, lost = KeptConnection(lambda: asyncpg.connect(database)), asyncio.Event()
    kept.on_lost = lost.set

    async def backend() -> int:
        async with kept.acquire() as ours:
            return int(await ours.fetchval("SELECT pg_backend_pid()"))

    first = await backend()
    assert await backend() == first
    with pytest.raises(asyncpg.PostgresError):
        async with kept.acquire() as ours:
            await ours.execute("no statement")
    second = await backend()
    assert second != first
    assert not lost.is_set()
    await connection.execute("SELECT pg_terminate_backend($1)", second)
    await asyncio.wait_for(lost.wait(), 10)
    assert await backend() not in {first, second}
    kept.close()


async def test_handlers_that_hold_transactions_do_not_keep_others_from_being_claimed_and_reported(
    connection: asyncpg.Connection, start_worker: StartWorker
) -> None:
    holding, release = asyncio.Semaphore(0), asyncio.Event()

    @handler("holds")
    async def holds(context: Context) -> None:
        async with context.transaction() as held:
            holding.release()
            await release.wait()
            await held.complete()

    @handler("quick")
    async def quick(_: Context) -> None: ...

    await start_worker(holds, quick, worker_concurrency=HANDLERS_CONNECTIONS + 10, lease_seconds=30)
    await add_tasks(connection, HANDLERS_CONNECTIONS + 2, handler="holds")
    for _ in range(HANDLERS_CONNECTIONS):
        await asyncio.wait_for(holding.acquire(), 15)
    await add_tasks(connection, 20, handler="quick")
    await ended(connection, 20)
    release.set()
    await ended(connection, 20 + HANDLERS_CONNECTIONS + 2)


async def test_a_worker_that_lost_the_connection_on_which_it_beats_connects_and_listens_at_once(
    connection: asyncpg.Connection, start_worker: StartWorker
) -> None:
    @handler("quick")
    async def quick(_: Context) -> None: ...

    worker = await start_worker(quick, polls=False, lease_seconds=60, heartbeat_seconds=20)
    former: list[int] = []

    async def leased() -> bool:
        return worker.membership.may_start()

    async def has_beaten() -> int | None:
        pid: int | None = await connection.fetchval(BEATING, since, former)
        return pid

    await eventually("the lease", leased)
    for number in range(1, 4):
        await add_tasks(connection, 1, handler="quick")
        await ended(connection, number)
        since = await connection.fetchval("SELECT clock_timestamp()")
        await connection.execute(
            "SELECT pg_notify($1, $2)", WORKER_CHANNEL, str(worker.instance_id)
        )
        former = [await eventually("a heartbeat when it is told", has_beaten)]
        await connection.execute("SELECT pg_terminate_backend($1)", former[0])
        await eventually("a heartbeat on another connection", has_beaten)


async def test_the_server_is_asked_about_a_type_once_in_a_process(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Connection, "_known", {})
    questions = []
    for pooler in (False, False, True, True):
        asked: list[str] = []
        made = await connect(
            settings_for(database, use_optional_servers=False, database_pooler=pooler)
        )
        made.add_query_logger(lambda record, asked=asked: asked.append(record.query))
        for values in ([1, 2], []):
            assert await made.fetchval("SELECT $1::bigint[]", values) == values
        assert await made.fetchval("SELECT ARRAY[1::int8]::text IS NULL") is False
        await made.close()
        questions.append(sum("typeinfo_tree" in query for query in asked))
    assert questions == [1, 0, 0, 0]
