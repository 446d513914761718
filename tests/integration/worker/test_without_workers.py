"""Background loops of API processes while no worker runs.

Due schedules run once, tasks of dead workers are released, and tasks that wait for a limit become
ready, so that workers are scaled up again.
"""

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import asyncpg
import httpx
import pytest
import pytest_asyncio

from task_service.domain.ids import new_id
from task_service.embedded import free_port
from task_service.loops.maintenance import Maintenance
from task_service.queue.claims import Bounds, claim
from task_service.queue.figures import queue_figures
from tests.support.service_settings import settings_for
from tests.support.tasks import add_tasks, add_worker, statuses
from tests.support.waiting import eventually

pytestmark = pytest.mark.asyncio
PROCESSES, SCHEDULES, TASKS = 2, 40, 3_000


@contextlib.asynccontextmanager
async def api_process(database: str) -> AsyncIterator[int]:
    """Run one `task-service api` with short intervals; yield its management port."""
    port = free_port()
    settings = {
        "DATABASE_URL": database,
        "HOST": "127.0.0.1",
        "PORT": free_port(),
        "MANAGEMENT_PORT": port,
        "AUTH_MODE": "open",
        "SCHEDULE_POLL_SECONDS": 0.05,
        "HEARTBEAT_SECONDS": 0.2,
        "LEASE_SECONDS": 1,
        "DAILY_LOG_CRON": "0 0 1 1 *",
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "task_service.cli", "api"),
        cwd="/",
        stdout=asyncio.subprocess.DEVNULL,
        env=os.environ | {name: str(value) for name, value in settings.items()},
    )
    try:
        yield port
    finally:
        process.terminate()
        assert await asyncio.wait_for(process.wait(), 30) == 0


@pytest_asyncio.fixture
async def api_processes(database: str, connection: asyncpg.Connection) -> AsyncIterator[None]:
    """Start two API processes and wait until they are ready."""
    async with contextlib.AsyncExitStack() as stack:
        client = await stack.enter_async_context(httpx.AsyncClient())
        ports = [await stack.enter_async_context(api_process(database)) for _ in range(PROCESSES)]

        async def all_ready() -> bool:
            with contextlib.suppress(httpx.TransportError):
                return all(
                    [(await client.get(f"http://127.0.0.1:{p}/readyz")).is_success for p in ports]
                )
            return False

        await eventually("the processes are ready", all_ready, 60)
        own = "SELECT 1 FROM schedules WHERE name = 'daily-log'"
        await eventually("the built-in schedule", lambda: connection.fetchval(own))
        assert await connection.fetchval("SELECT count(*) FROM workers") == 0
        yield


async def test_each_due_schedule_creates_one_task(
    api_processes: None, connection: asyncpg.Connection
) -> None:
    last_year = datetime.now(UTC) - timedelta(days=400)
    template = {"title": "x", "handler": "noop", "max_attempts": 3, "timeout_seconds": 60}
    await connection.executemany(
        "INSERT INTO schedules (id, name, cron, template, next_run_at) "
        "VALUES ($1, $2, '0 0 1 1 *', $3, $4)",
        [
            (new_id(), f"job{number}", json.dumps(template), last_year)
            for number in range(SCHEDULES)
        ],
    )

    async def all_ran() -> bool:
        return not await connection.fetchval(
            "SELECT count(*) FROM schedules WHERE next_run_at <= clock_timestamp()"
        )

    await eventually("every schedule's run", all_ran, 60)
    made = await connection.fetch("SELECT created_by, max_attempts, timeout_seconds FROM tasks")
    assert sorted(row["created_by"] for row in made) == sorted(
        f"schedule:job{n}" for n in range(SCHEDULES)
    )
    assert {(row["max_attempts"], row["timeout_seconds"]) for row in made} == {(3, 60)}, (
        "from the template"
    )
    waiting = await connection.fetch("SELECT max_attempts, timeout_seconds FROM queue")
    assert [tuple(row) for row in waiting] == [(3, 60)] * SCHEDULES


async def test_daily_load_creates_one_entry_per_task_for_the_missed_day_and_today(
    api_processes: None, connection: asyncpg.Connection
) -> None:
    await connection.execute(
        "INSERT INTO tasks (id, title, status, created_at) "
        "SELECT gen_random_uuid(), 'task', 'pending', now() - interval '9 days' "
        "FROM generate_series(1, $1::integer)",
        TASKS,
    )
    today = datetime.now(UTC).date()
    await connection.execute(
        "INSERT INTO daily_loads (date) VALUES ($1)", today - timedelta(days=2)
    )
    await connection.execute("UPDATE schedules SET next_run_at = now() - interval '1 hour'")

    async def has_advanced() -> bool:
        return bool(await connection.fetchval("SELECT next_run_at > now() FROM schedules"))

    await eventually("the next time of the daily load", has_advanced, 60)
    days = await connection.fetch(
        "SELECT date, count(*), count(DISTINCT task_id) FROM daily_log GROUP BY 1 ORDER BY 1"
    )
    assert [tuple(day) for day in days] == [
        (today - timedelta(days=1), TASKS, TASKS),
        (today, TASKS, TASKS),
    ]


async def test_tasks_of_a_dead_worker_are_released(
    api_processes: None, connection: asyncpg.Connection
) -> None:
    tasks = await add_tasks(connection, 3)
    worker = await add_worker(connection, lease_seconds=1)
    assert len(await claim(connection, worker, Bounds(["default"]), 10, start_at_once=True)) == 3
    assert await statuses(connection, tasks) == ["processing"] * 3

    async def all_pending() -> bool:
        return await statuses(connection, tasks) == ["pending"] * 3

    await eventually("the release of the tasks", all_pending, 60)
    assert (
        await connection.fetchval("SELECT dead_reason FROM workers WHERE id = $1", worker)
        == "unknown"
    )


async def test_tasks_that_wait_for_a_limit_are_admitted(
    api_processes: None, connection: asyncpg.Connection
) -> None:
    await connection.execute("INSERT INTO limits (kind, name, concurrency) VALUES ('key', 'x', 2)")
    await add_tasks(connection, 5, limit_key="x")

    async def two_ready() -> bool:
        return bool((await queue_figures(connection))["ready"] == 2)

    await eventually("two ready tasks", two_ready)


async def test_no_worker_is_declared_dead_within_a_lease_after_an_outage(
    database: str, connection: asyncpg.Connection
) -> None:
    settings = settings_for(database, heartbeat_seconds=0.05, lease_seconds=0.5)
    await add_worker(connection, lease_seconds=0.01)
    sweeps: list[datetime | None] = []

    @contextlib.asynccontextmanager
    async def acquire() -> AsyncIterator[asyncpg.Connection]:
        if len(sweeps) == 3:
            sweeps.append(None)
            raise OSError("away")
        sweeps.append(await connection.fetchval("SELECT clock_timestamp()"))
        yield connection

    maintenance = Maintenance(settings, acquire).loop()
    await maintenance.start()
    other = await asyncpg.connect(database)
    dead_at = await eventually("the death", lambda: other.fetchval("SELECT dead_at FROM workers"))
    await maintenance.stop()
    await other.close()
    back_at = sweeps[sweeps.index(None) + 1]
    assert back_at is not None and dead_at - back_at >= timedelta(seconds=0.5)
