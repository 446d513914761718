"""Schedules that are due: run once whatever the number of instances, whoever dies, however long the outage."""

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
from task_service.services.context import Context
from task_service.store.database import create_engine
from tests.integration.worker.conftest import StartWorker
from tests.support.full_disk import SET_FULL_TABLES, SIMULATE_FULL_DISK
from tests.support.service_settings import settings_for
from tests.support.tasks import quiet_wakeups
from tests.support.waiting import eventually

pytestmark = pytest.mark.asyncio
PROCESS = """
import asyncio, sys
from task_service.queue.wakeups import Wakeups
from task_service.services.context import Context
from task_service.settings import load_settings
from task_service.store.database import create_engine
from task_service.loops.scheduler import Scheduler

async def main():
    settings = load_settings(database_url=sys.argv[1], heartbeat_seconds=1, schedule_poll_seconds=0.05)
    context = Context(settings, create_engine(settings), Wakeups(None))
    async with context.engine.connect():
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
    await Scheduler(context).run()

asyncio.run(main())
"""


@pytest_asyncio.fixture
async def context(database: str) -> AsyncIterator[Context]:
    """What a process's scheduler works with."""
    settings = settings_for(database, schedule_poll_seconds=0.05)
    engine = create_engine(settings)
    yield Context(settings, engine, quiet_wakeups())
    await engine.dispose()


async def add_schedule(
    connection: asyncpg.Connection, name: str = "job", late: timedelta = timedelta(), **more: Any
) -> Any:
    """A schedule that is due: its next time lies `late` ago."""
    values = {"cron": "* * * * *", "template": {"title": "x"}, "catch_up": "last"} | more
    now = datetime.now(UTC).replace(second=0, microsecond=0)
    await connection.execute(
        "INSERT INTO schedules (id, name, cron, template, catch_up, next_run_at) VALUES ($1, $2, $3, $4, $5, $6)",
        schedule_id := new_id(), name, values["cron"], json.dumps(values["template"]), values["catch_up"], now - late,
    )  # fmt: skip
    return schedule_id


async def read(connection: asyncpg.Connection) -> asyncpg.Record:
    row = await connection.fetchrow("SELECT * FROM schedules WHERE action = 'task'")
    assert row is not None
    return row


async def made(connection: asyncpg.Connection) -> list[str]:
    """For which times there are tasks."""
    rows = await connection.fetch("SELECT payload ->> 'scheduled_for' AS at FROM tasks ORDER BY 1")
    return [row["at"] for row in rows]


async def spawn(database: str) -> asyncio.subprocess.Process:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROCESS, database, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    assert process.stdout is not None and await process.stdout.readline() == b"ready\n"
    return process


async def begin(process: asyncio.subprocess.Process) -> None:
    assert process.stdin is not None
    process.stdin.write(b"go\n")
    await process.stdin.drain()


async def test_a_due_schedule_makes_its_task_and_moves_on(
    connection: asyncpg.Connection, context: Context
) -> None:
    template = {"title": "Rain", "handler": "noop", "queue": "garden", "payload": {"litres": 3}}
    await add_schedule(connection, template=template)
    await Scheduler(context).look()
    row, task = await read(connection), await connection.fetchrow("SELECT * FROM tasks")
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
    await Scheduler(context).look()
    assert len(await made(connection)) == 1


async def test_eight_processes_at_once_run_each_of_a_hundred_schedules_once(
    connection: asyncpg.Connection, database: str
) -> None:
    for number in range(100):
        await add_schedule(connection, f"job{number}", cron="0 0 1 1 *", late=timedelta(days=400))
    processes = [await spawn(database) for _ in range(8)]
    try:
        for process in processes:
            await begin(process)

        async def all_ran() -> bool:
            due = "SELECT count(*) FROM schedules WHERE action = 'task' AND next_run_at <= clock_timestamp()"
            return await connection.fetchval(due) == 0

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


async def test_a_process_that_is_killed_between_task_and_next_time_leaves_neither(
    connection: asyncpg.Connection, database: str, context: Context
) -> None:
    """It has made the task and waits to write the next time, which a lock of ours keeps it from; then it is killed."""
    await add_schedule(connection, cron="0 0 1 1 *", late=timedelta(days=400))
    other = await asyncpg.connect(database)
    # The killed process's COPY into the history waits here: its task is made, its schedule not yet moved.
    transaction = other.transaction()
    await transaction.start()
    await other.execute("LOCK TABLE task_history IN ACCESS EXCLUSIVE MODE")
    victim = await spawn(database)
    await begin(victim)

    async def waits() -> bool:
        return bool(await connection.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"))

    await eventually("the victim's wait", waits)
    victim.send_signal(signal.SIGKILL)
    await victim.wait()
    await transaction.rollback()
    await other.close()

    async def free() -> bool:
        """The dead process's session is gone, and its locks with it."""
        async with connection.transaction():
            query = "SELECT 1 FROM schedules WHERE action = 'task' FOR UPDATE SKIP LOCKED"
            return await connection.fetchval(query) == 1

    await eventually("the end of the victim's session", free)
    assert await connection.fetchval("SELECT count(*) FROM tasks") == 0
    await Scheduler(context).look()
    assert await connection.fetchval("SELECT count(*) FROM tasks") == 1


@pytest.mark.parametrize(("catch_up", "count"), [("none", 0), ("last", 1), ("all", 3)])
async def test_an_outage_is_caught_up_as_the_schedule_says(
    connection: asyncpg.Connection, context: Context, catch_up: str, count: int
) -> None:
    """Once a day, last due half a day ago, three times missed."""
    noon = datetime.now(UTC) - timedelta(hours=12)
    cron = f"{noon.minute} {noon.hour} * * *"
    await add_schedule(connection, cron=cron, late=timedelta(days=2, hours=12), catch_up=catch_up)
    await Scheduler(context).look()
    times = [datetime.fromisoformat(t) for t in await made(connection)]
    last = noon.replace(second=0, microsecond=0)
    assert times == [last - timedelta(days=n) for n in range(count)][::-1]
    row = await read(connection)
    assert row["next_run_at"] == last + timedelta(days=1)
    assert (row["last_run_at"] is None) == (count == 0)


async def test_a_time_that_finds_no_space_on_the_disk_waits_for_some(
    connection: asyncpg.Connection, context: Context
) -> None:
    """To leave it out would be right for a schedule that cannot run, not for a server that cannot write."""
    await add_schedule(connection)
    await connection.execute(SIMULATE_FULL_DISK)
    await connection.execute(SET_FULL_TABLES, ["tasks"])
    with pytest.raises(asyncpg.DiskFullError):
        await Scheduler(context).look()
    await connection.execute(SET_FULL_TABLES, [])
    await Scheduler(context).look()
    assert len(await made(connection)) == 1


async def test_a_time_that_has_just_come_runs_without_catching_up_too(
    connection: asyncpg.Connection, context: Context
) -> None:
    await add_schedule(connection, late=timedelta(minutes=10), catch_up="none")
    await Scheduler(context).look()
    assert len(await made(connection)) == 1


async def test_what_is_caught_up_is_bounded(
    connection: asyncpg.Connection, context: Context
) -> None:
    await add_schedule(connection, late=timedelta(days=400), catch_up="all")
    await Scheduler(context).look()
    times = await made(connection)
    assert len(times) == schedules.MOST_CAUGHT_UP
    newest = datetime.fromisoformat(times[-1])
    assert datetime.now(UTC) - newest < timedelta(minutes=2), "the newest ones"


async def test_one_that_cannot_run_says_why_goes_on_and_holds_up_nobody(
    connection: asyncpg.Connection, context: Context
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
    await Scheduler(context).look()
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
    await Scheduler(context).look()
    assert (
        await connection.fetchval("SELECT last_error FROM schedules WHERE name = 'old form'")
        is None
    )


async def test_a_disabled_schedule_does_not_run(
    connection: asyncpg.Connection, context: Context
) -> None:
    await add_schedule(connection)
    await connection.execute("UPDATE schedules SET enabled = false")
    await Scheduler(context).look()
    assert await made(connection) == []


async def test_the_databases_clock_counts_not_the_processs(
    connection: asyncpg.Connection, context: Context
) -> None:
    slow = Context(
        context.settings,
        context.engine,
        context.wakeups,
        clock=lambda: datetime.now(UTC) - timedelta(days=1),
    )
    await add_schedule(connection)
    await Scheduler(slow).look()
    await Scheduler(slow).look()
    assert len(await made(connection)) == 1
    assert (await read(connection))["next_run_at"] > await connection.fetchval("SELECT now()")


async def test_a_worker_runs_the_daily_loader_and_lets_its_schedule_follow_the_settings(
    connection: asyncpg.Connection, start_worker: StartWorker
) -> None:
    await connection.execute(
        "INSERT INTO tasks (id, title, status) VALUES (gen_random_uuid(), 'open', 'pending')"
    )
    settings = {"schedule_poll_seconds": 0.05, "daily_log_time_zone": "Europe/Berlin"}
    await start_worker(daily_log_cron="0 3 * * *", **settings)
    own = "SELECT * FROM schedules WHERE name = 'daily-log'"
    first = await eventually("the product's own schedule", lambda: connection.fetchrow(own))
    assert (first["cron"], first["time_zone"]) == ("0 3 * * *", "Europe/Berlin")
    await connection.execute("UPDATE schedules SET next_run_at = now() - interval '1 minute'")
    await eventually(
        "the daily load", lambda: connection.fetchval("SELECT entries FROM daily_loads")
    )

    async def moved_on() -> bool:
        return bool(
            await connection.fetchval(
                "SELECT next_run_at > now() AND last_run_at IS NOT NULL FROM schedules"
            )
        )

    await eventually("the next time", moved_on)
    await start_worker(daily_log_cron="0 4 * * *", **settings)

    async def follows() -> bool:
        return (
            await connection.fetchval("SELECT cron FROM schedules WHERE name = 'daily-log'")
            == "0 4 * * *"
        )

    await eventually("the changed setting", follows)
    hour = "SELECT extract(hour FROM next_run_at AT TIME ZONE 'Europe/Berlin') FROM schedules"
    assert await connection.fetchval(hour) == 4
