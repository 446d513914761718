"""A worker's connections: their number, their independence, and their cost for the server."""

import asyncio

import asyncpg
import pytest

from task_service.queue.claims import Bounds, claim_in_slot, claim_slots
from task_service.services import schedules
from task_service.services.transactions import TransactionManager
from task_service.store.database import Connection, connect, create_engine
from task_service.store.persistent_connection import KeptConnection
from task_service.worker.handlers import Context, handler
from task_service.worker.listener import WORKER_CHANNEL
from task_service.worker.process import HANDLERS_CONNECTIONS
from tests.support.service_settings import settings_for
from tests.support.tasks import add_tasks, add_worker, quiet_wakeups, set_limit
from tests.support.waiting import eventually
from tests.support.worker_runs import StartWorker

pytestmark = pytest.mark.asyncio
COUNT_CONNECTIONS = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND application_name = 'task-service'
"""
CLAIM_CONNECTION = """
    SELECT pid FROM pg_stat_activity
    WHERE datname = current_database() AND query LIKE '-- Claim%' AND state = 'idle'
"""
HEARTBEAT_CONNECTION = """
    SELECT pid FROM pg_stat_activity
    WHERE datname = current_database() AND query LIKE '-- Renew%' AND query_start > $1
        AND pid <> ALL ($2::integer[])
"""
ENDED = "SELECT count(*) FROM runs WHERE final"


async def wait_for_ends(connection: asyncpg.Connection, count: int) -> None:
    async def all_ended() -> bool:
        return bool(await connection.fetchval(ENDED) == count)

    await eventually(f"the end of {count} tasks", all_ended)


async def test_worker_has_at_most_four_connections(
    connection: asyncpg.Connection, database: str, start_worker: StartWorker
) -> None:
    @handler("reports")
    async def reports(context: Context) -> None:
        context.progress(0.5)
        await asyncio.sleep(0.001)

    settings = settings_for(database, use_optional_servers=False)
    engine = create_engine(settings)
    transactions = TransactionManager(settings, engine, quiet_wakeups())
    await transactions.write(schedules.ensure_daily_log_schedule)
    await engine.dispose()
    await set_limit(connection, "key", "seven", concurrency=7)
    quick = {"heartbeat_seconds": 0.05, "poll_seconds": 0.05, "schedule_poll_seconds": 0.05}
    await start_worker(reports, database_url=database, **quick)
    for _ in range(5):
        await add_tasks(connection, 500, handler="reports")
        await add_tasks(connection, 40, handler="reports", limit_key="seven")
    await wait_for_ends(connection, 5 * 540)
    # Connections stay open for minutes, so this is the maximum.
    assert 2 <= await connection.fetchval(COUNT_CONNECTIONS) <= 4


async def test_tasks_are_claimed_even_if_the_holders_of_all_claim_slots_hang(
    connection: asyncpg.Connection, database: str, start_worker: StartWorker
) -> None:
    @handler("noop")
    async def noop(_: Context) -> None: ...

    blocker, other = await asyncpg.connect(database), await add_worker(connection)
    async with blocker.transaction():
        for slot in claim_slots(["default"]):
            bounds = Bounds(["default"])
            assert (
                await claim_in_slot(
                    blocker, other, bounds, 0, slot, start_at_once=True, look_back=True
                )
                == []
            )
        await start_worker(noop)
        await add_tasks(connection, 3, handler="noop")
        await wait_for_ends(connection, 3)
    await blocker.close()


async def test_worker_gets_notifications_after_losing_its_claim_connection(
    connection: asyncpg.Connection, start_worker: StartWorker
) -> None:
    """It reconnects at once instead of at its next poll, which may be far away."""

    @handler("noop")
    async def noop(_: Context) -> None: ...

    async def find_claim_connection() -> int | None:
        found = await connection.fetch(CLAIM_CONNECTION)
        return int(found[0]["pid"]) if len(found) == 1 else None

    await start_worker(noop, polls=False)
    for count in (1, 2, 3):
        pid = await eventually("the connection on which it claims", find_claim_connection)
        await add_tasks(connection, handler="noop")
        await connection.execute("SELECT pg_notify('task_service_queue', 'default')")
        await wait_for_ends(connection, count)
        await connection.execute("SELECT pg_terminate_backend($1)", pid)


async def test_persistent_connection_reopens_after_an_error_and_reports_only_a_loss(
    database: str, connection: asyncpg.Connection
) -> None:
    persistent, lost = KeptConnection(lambda: asyncpg.connect(database)), asyncio.Event()
    persistent.on_lost = lost.set

    async def backend() -> int:
        async with persistent.acquire() as ours:
            return int(await ours.fetchval("SELECT pg_backend_pid()"))

    first = await backend()
    assert await backend() == first
    with pytest.raises(asyncpg.PostgresError):
        async with persistent.acquire() as ours:
            await ours.execute("no statement")
    second = await backend()
    assert second != first
    assert not lost.is_set()
    await connection.execute("SELECT pg_terminate_backend($1)", second)
    await asyncio.wait_for(lost.wait(), 10)
    assert await backend() not in {first, second}
    persistent.close()


async def test_open_handler_transactions_do_not_block_claims_and_reports(
    connection: asyncpg.Connection, start_worker: StartWorker
) -> None:
    open_transactions, release = asyncio.Semaphore(0), asyncio.Event()

    @handler("holds")
    async def holds(context: Context) -> None:
        async with context.transaction() as held:
            open_transactions.release()
            await release.wait()
            await held.complete()

    @handler("quick")
    async def quick(_: Context) -> None: ...

    await start_worker(holds, quick, worker_concurrency=HANDLERS_CONNECTIONS + 10, lease_seconds=30)
    await add_tasks(connection, HANDLERS_CONNECTIONS + 2, handler="holds")
    for _ in range(HANDLERS_CONNECTIONS):
        await asyncio.wait_for(open_transactions.acquire(), 15)
    await add_tasks(connection, 20, handler="quick")
    await wait_for_ends(connection, 20)
    release.set()
    await wait_for_ends(connection, 20 + HANDLERS_CONNECTIONS + 2)


async def test_worker_reconnects_and_listens_at_once_after_losing_its_heartbeat(
    connection: asyncpg.Connection, start_worker: StartWorker
) -> None:
    @handler("quick")
    async def quick(_: Context) -> None: ...

    worker = await start_worker(quick, polls=False, lease_seconds=60, heartbeat_seconds=20)
    previous: list[int] = []

    async def has_lease() -> bool:
        return worker.membership.may_start()

    async def find_heartbeat() -> int | None:
        pid: int | None = await connection.fetchval(HEARTBEAT_CONNECTION, since, previous)
        return pid

    await eventually("the lease", has_lease)
    for number in range(1, 4):
        await add_tasks(connection, 1, handler="quick")
        await wait_for_ends(connection, number)
        since = await connection.fetchval("SELECT clock_timestamp()")
        await connection.execute(
            "SELECT pg_notify($1, $2)", WORKER_CHANNEL, str(worker.instance_id)
        )
        previous = [await eventually("a heartbeat after a notification", find_heartbeat)]
        await connection.execute("SELECT pg_terminate_backend($1)", previous[0])
        await eventually("a heartbeat on another connection", find_heartbeat)


async def test_type_information_is_queried_once_per_process(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Connection, "_known", {})
    lookups = []
    for pooler in (False, False, True, True):
        queries: list[str] = []
        new = await connect(
            settings_for(database, use_optional_servers=False, database_pooler=pooler)
        )
        new.add_query_logger(lambda record, queries=queries: queries.append(record.query))
        for values in ([1, 2], []):
            assert await new.fetchval("SELECT $1::bigint[]", values) == values
        assert await new.fetchval("SELECT ARRAY[1::int8]::text IS NULL") is False
        await new.close()
        lookups.append(sum("typeinfo_tree" in query for query in queries))
    assert lookups == [1, 0, 0, 0]
