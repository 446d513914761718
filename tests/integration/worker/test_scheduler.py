"""Due schedules run once, with many processes, crashes and outages."""

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from task_service.domain.ids import new_id
from task_service.loops.scheduler import Scheduler
from task_service.services import schedules
from task_service.services.transactions import TransactionManager
from task_service.store.database import create_engine
from tests.support.full_disk import SET_FULL_TABLES, SIMULATE_FULL_DISK
from tests.support.service_settings import settings_for
from tests.support.tasks import quiet_wakeups
from tests.support.waiting import eventually
from tests.support.worker_runs import StartWorker

pytestmark = pytest.mark.asyncio
PROCESS = """
import asyncio, sys
from task_service.queue.wakeups import Wakeups
from task_service.services.transactions import TransactionManager
from task_service.settings import load_settings
from task_service.store.database import create_engine
from task_service.loops.scheduler import Scheduler

async def main():
    settings = load_settings(
        database_url=sys.argv[1], heartbeat_seconds=1, schedule_poll_seconds=0.05
    )
    transactions = TransactionManager(settings, create_engine(settings), Wakeups(None))
    async with transactions.engine.connect():
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
    await Scheduler(transactions).loop().run()

asyncio.run(main())
"""


@pytest_asyncio.fixture
async def transactions(database: str) -> AsyncIterator[TransactionManager]:
    """Context of a process that runs the scheduler."""
    settings = settings_for(database, schedule_poll_seconds=0.05)
    engine = create_engine(settings)
    yield TransactionManager(settings, engine, quiet_wakeups())
    await engine.dispose()


async def add_schedule(
    connection: asyncpg.Connection,
    name: str = "job",
    late: timedelta = timedelta(),
    **overrides: Any,
) -> Any:
    """Add a schedule whose next time was due `late` ago, and return its id."""
    values = {"cron": "* * * * *", "template": {"title": "x"}, "catch_up": "last"} | overrides
    now = datetime.now(UTC).replace(second=0, microsecond=0)
    await connection.execute(
        "INSERT INTO schedules (name, cron, catch_up, id, template, next_run_at) "
        "VALUES ($1, $2, $3, $4, $5, $6)",
        name,
        values["cron"],
        values["catch_up"],
        schedule_id := new_id(),
        json.dumps(values["template"]),
        now - late,
    )
    return schedule_id


async def read_schedule(connection: asyncpg.Connection) -> asyncpg.Record:
    row = await connection.fetchrow("SELECT * FROM schedules WHERE action = 'task'")
    assert row is not None
    return row


async def scheduled_times(connection: asyncpg.Connection) -> list[str]:
    """Return the times for which there are tasks."""
    rows = await connection.fetch("SELECT payload ->> 'scheduled_for' AS at FROM tasks ORDER BY 1")
    return [row["at"] for row in rows]


async def spawn(database: str) -> asyncio.subprocess.Process:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PROCESS, database),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdout is not None and await process.stdout.readline() == b"ready\n"
    return process


async def start_scheduling(process: asyncio.subprocess.Process) -> None:
    assert process.stdin is not None
    process.stdin.write(b"go\n")
    await process.stdin.drain()


async def test_due_schedule_creates_a_task_and_advances(
    connection: asyncpg.Connection, transactions: TransactionManager
) -> None:
    template = {"title": "Rain", "handler": "noop", "queue": "garden", "payload": {"litres": 3}}
    await add_schedule(connection, template=template)
    await Scheduler(transactions).run_due()
    row, task = await read_schedule(connection), await connection.fetchrow("SELECT * FROM tasks")
    assert task is not None
    assert (row["last_task_id"], row["last_error"], row["version"]) == (task["id"], None, 1)
    assert row["next_run_at"] > await connection.fetchval("SELECT now()") >= row["last_run_at"]
    assert (task["title"], task["created_by"]) == ("Rain", "schedule:job")
    payload = json.loads(task["payload"])
    scheduled = datetime.fromisoformat(payload.pop("scheduled_for"))
    assert payload == {"litres": 3}
    assert (scheduled.second, scheduled <= row["last_run_at"]) == (0, True)
    assert (
        await connection.fetchval("SELECT queue FROM queue WHERE task_id = $1", task["id"])
        == "garden"
    )
    await Scheduler(transactions).run_due()
    assert len(await scheduled_times(connection)) == 1


async def test_eight_processes_run_each_of_a_hundred_schedules_once(
    connection: asyncpg.Connection, database: str
) -> None:
    for number in range(100):
        await add_schedule(connection, f"job{number}", cron="0 0 1 1 *", late=timedelta(days=400))
    processes = [await spawn(database) for _ in range(8)]
    try:
        for process in processes:
            await start_scheduling(process)

        async def all_ran() -> bool:
            query = (
                "SELECT count(*) FROM schedules "
                "WHERE action = 'task' AND next_run_at <= clock_timestamp()"
            )
            return bool(await connection.fetchval(query) == 0)

        await eventually("every schedule's run", all_ran, 60)
    finally:
        for process in processes:
            process.kill()
            await process.wait()
    assert await connection.fetchval("SELECT count(*) FROM tasks") == 100
    assert await connection.fetchval("SELECT count(DISTINCT created_by) FROM tasks") == 100
    assert (
        await connection.fetchval("SELECT count(*) FROM schedules WHERE action = 'daily_log'") == 1
    )


async def test_killed_process_leaves_neither_task_nor_advanced_schedule(
    connection: asyncpg.Connection, database: str, transactions: TransactionManager
) -> None:
    """Kill the process while a lock keeps it from committing the new task."""
    await add_schedule(connection, cron="0 0 1 1 *", late=timedelta(days=400))
    other = await asyncpg.connect(database)
    # The COPY into the history waits: the task is inserted, the schedule has not advanced yet.
    transaction = other.transaction()
    await transaction.start()
    await other.execute("LOCK TABLE task_history IN ACCESS EXCLUSIVE MODE")
    victim = await spawn(database)
    await start_scheduling(victim)

    async def is_waiting() -> bool:
        return bool(await connection.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"))

    await eventually("the wait of the victim", is_waiting)
    victim.send_signal(signal.SIGKILL)
    await victim.wait()
    await transaction.rollback()
    await other.close()

    async def is_unlocked() -> bool:
        """Check that the session of the killed process has ended and released its locks."""
        async with connection.transaction():
            query = "SELECT 1 FROM schedules WHERE action = 'task' FOR UPDATE SKIP LOCKED"
            return bool(await connection.fetchval(query) == 1)

    await eventually("the end of the victim's session", is_unlocked)
    assert await connection.fetchval("SELECT count(*) FROM tasks") == 0
    await Scheduler(transactions).run_due()
    assert await connection.fetchval("SELECT count(*) FROM tasks") == 1


@pytest.mark.parametrize(("catch_up", "count"), [("none", 0), ("last", 1), ("all", 3)])
async def test_missed_times_are_caught_up_according_to_the_schedule(
    connection: asyncpg.Connection, transactions: TransactionManager, catch_up: str, count: int
) -> None:
    """The schedule runs daily, was last due half a day ago and missed three times."""
    noon = datetime.now(UTC) - timedelta(hours=12)
    cron = f"{noon.minute} {noon.hour} * * *"
    await add_schedule(connection, cron=cron, late=timedelta(days=2, hours=12), catch_up=catch_up)
    await Scheduler(transactions).run_due()
    times = [datetime.fromisoformat(t) for t in await scheduled_times(connection)]
    last = noon.replace(second=0, microsecond=0)
    assert times == [last - timedelta(days=n) for n in range(count)][::-1]
    row = await read_schedule(connection)
    assert row["next_run_at"] == last + timedelta(days=1)
    assert (row["last_run_at"] is None) == (count == 0)


async def test_full_disk_delays_a_due_time_until_space_is_free(
    connection: asyncpg.Connection, transactions: TransactionManager
) -> None:
    """The time is not skipped, unlike that of a schedule with an invalid template."""
    await add_schedule(connection)
    await connection.execute(SIMULATE_FULL_DISK)
    await connection.execute(SET_FULL_TABLES, ["tasks"])
    with pytest.raises(asyncpg.DiskFullError):
        await Scheduler(transactions).run_due()
    await connection.execute(SET_FULL_TABLES, [])
    await Scheduler(transactions).run_due()
    assert len(await scheduled_times(connection)) == 1


async def test_current_time_runs_even_if_catch_up_is_none(
    connection: asyncpg.Connection, transactions: TransactionManager
) -> None:
    await add_schedule(connection, late=timedelta(minutes=10), catch_up="none")
    await Scheduler(transactions).run_due()
    assert len(await scheduled_times(connection)) == 1


async def test_number_of_caught_up_times_is_limited(
    connection: asyncpg.Connection, transactions: TransactionManager
) -> None:
    await add_schedule(connection, late=timedelta(days=400), catch_up="all")
    await Scheduler(transactions).run_due()
    times = await scheduled_times(connection)
    assert len(times) == schedules.CATCH_UP_MAX
    newest = datetime.fromisoformat(times[-1])
    assert datetime.now(UTC) - newest < timedelta(minutes=2), "the newest times are kept"


async def test_invalid_schedule_records_its_error_and_does_not_block_others(
    connection: asyncpg.Connection, transactions: TransactionManager
) -> None:
    hour = timedelta(hours=1)
    await add_schedule(
        connection, "old form", late=3 * hour, template={"title": "x", "colour": "green"}
    )
    await add_schedule(
        connection, "past", late=3 * hour, template={"title": "x", "due_date": "2020-01-01"}
    )
    await add_schedule(connection, "no cron", late=3 * hour, cron="0 0 30 2 *")
    await add_schedule(connection, "good", late=hour)
    await Scheduler(transactions).run_due()
    rows = {r["name"]: r for r in await connection.fetch("SELECT * FROM schedules")}
    assert rows["old form"]["last_error"] == "colour: Extra inputs are not permitted"
    assert rows["past"]["last_error"] == "due_date: must be in the future"
    assert "never fires" in rows["no cron"]["last_error"]
    assert rows["no cron"]["next_run_at"] is None
    now = await connection.fetchval("SELECT now()")
    assert min(rows[name]["next_run_at"] for name in ("old form", "past", "good")) > now
    assert [r["created_by"] for r in await connection.fetch("SELECT created_by FROM tasks")] == [
        "schedule:good"
    ]
    await connection.execute(
        'UPDATE schedules SET template = \'{"title": "x"}\', next_run_at = now()'
    )
    await Scheduler(transactions).run_due()
    assert (
        await connection.fetchval("SELECT last_error FROM schedules WHERE name = 'old form'")
        is None
    )


async def test_disabled_schedule_does_not_run(
    connection: asyncpg.Connection, transactions: TransactionManager
) -> None:
    await add_schedule(connection)
    await connection.execute("UPDATE schedules SET enabled = false")
    await Scheduler(transactions).run_due()
    assert await scheduled_times(connection) == []


async def test_schedules_use_the_clock_of_the_database(
    connection: asyncpg.Connection, transactions: TransactionManager
) -> None:
    slow = TransactionManager(
        transactions.settings,
        transactions.engine,
        transactions.wakeups,
        clock=lambda: datetime.now(UTC) - timedelta(days=1),
    )
    await add_schedule(connection)
    await Scheduler(slow).run_due()
    await Scheduler(slow).run_due()
    assert len(await scheduled_times(connection)) == 1
    assert (await read_schedule(connection))["next_run_at"] > await connection.fetchval(
        "SELECT now()"
    )


async def test_worker_runs_the_daily_load_and_updates_its_schedule_from_settings(
    connection: asyncpg.Connection, start_worker: StartWorker
) -> None:
    await connection.execute(
        "INSERT INTO tasks (id, title, status) VALUES (gen_random_uuid(), 'open', 'pending')"
    )
    settings = {"schedule_poll_seconds": 0.05, "daily_log_time_zone": "Europe/Berlin"}
    await start_worker(daily_log_cron="0 3 * * *", **settings)
    own = "SELECT * FROM schedules WHERE name = 'daily-log'"
    first = await eventually("the built-in schedule", lambda: connection.fetchrow(own))
    assert (first["cron"], first["time_zone"]) == ("0 3 * * *", "Europe/Berlin")
    await connection.execute("UPDATE schedules SET next_run_at = now() - interval '1 minute'")
    await eventually(
        "the daily load", lambda: connection.fetchval("SELECT entries FROM daily_loads")
    )

    async def has_advanced() -> bool:
        return bool(
            await connection.fetchval(
                "SELECT next_run_at > now() AND last_run_at IS NOT NULL FROM schedules"
            )
        )

    await eventually("the next time", has_advanced)
    await start_worker(daily_log_cron="0 4 * * *", **settings)

    async def is_updated() -> bool:
        query = "SELECT cron FROM schedules WHERE name = 'daily-log'"
        return bool(await connection.fetchval(query) == "0 4 * * *")

    await eventually("the changed setting", is_updated)
    hour = "SELECT extract(hour FROM next_run_at AT TIME ZONE 'Europe/Berlin') FROM schedules"
    assert await connection.fetchval(hour) == 4
