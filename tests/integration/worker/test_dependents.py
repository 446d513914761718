"""Workers let those go on who wait for the tasks that they end."""

import asyncio
import re
from uuid import UUID

import asyncpg
import pytest

from task_service.domain.ids import new_id
from task_service.loops.maintenance import Maintenance
from task_service.queue.claims import Bounds, claim
from task_service.queue.dependencies import Need, block, settle
from task_service.queue.statements import statement
from task_service.worker.handlers import Context, handler
from tests.integration.worker.conftest import StartWorker, end_of
from tests.support.sample_tasks import insert_sample_tasks
from tests.support.service_settings import settings_for
from tests.support.tasks import add_tasks, add_worker, statuses
from tests.support.waiting import eventually

pytestmark = pytest.mark.asyncio
WITHOUT_SWEEPS = {"lease_seconds": 900, "heartbeat_seconds": 300}


async def add_waiting(connection: asyncpg.Connection, *needs: UUID, handler: str = "noop") -> UUID:
    """A task that needs these."""
    async with connection.transaction():
        [task] = await add_tasks(connection, handler=handler)
        assert not await block(connection, [Need(task, need, cancels=True) for need in needs])
    return task


async def test_who_waits_goes_on_at_once_and_who_waits_for_the_failed_is_cancelled(
    connection: asyncpg.Connection, start_worker: StartWorker
) -> None:
    ran = []

    @handler("step")
    async def step(context: Context) -> None:
        ran.append(context.task_id)

    @handler("bad")
    async def bad(_: Context) -> None:
        raise ValueError

    [first] = await add_tasks(connection, handler="step")
    second = await add_waiting(connection, first, handler="step")
    [fails] = await add_tasks(connection, handler="bad", max_attempts=1)
    third = await add_waiting(connection, second, handler="step")
    cancelled = await add_waiting(connection, second, fails, handler="step")
    await start_worker(step, bad, **WITHOUT_SWEEPS)
    await end_of(connection, third)
    assert ran == [first, second, third]
    end = await end_of(connection, cancelled)
    assert (end["outcome"], end["worker_id"]) == ("cancelled", None)


async def test_workers_are_woken(connection: asyncpg.Connection, database: str) -> None:
    [need] = await add_tasks(connection)
    await add_waiting(connection, need)
    await connection.execute("DELETE FROM queue WHERE task_id = $1", need)
    await connection.execute("UPDATE tasks SET status = 'completed' WHERE id = $1", need)
    listener, heard = await asyncpg.connect(database), asyncio.Event()
    await listener.add_listener("task_service_queue", lambda *_: heard.set())
    await settle(connection, [need])
    await asyncio.wait_for(heard.wait(), 15)
    await listener.close()


async def test_a_completion_in_the_handlers_transaction_is_noted_in_it(
    connection: asyncpg.Connection, start_worker: StartWorker
) -> None:
    @handler("own")
    async def own(context: Context) -> None:
        async with context.transaction() as transaction:
            await transaction.complete()

    tasks = await add_tasks(connection, 2, handler="own")
    await add_waiting(connection, tasks[0])
    await start_worker(own, **WITHOUT_SWEEPS)
    for task in tasks:
        await end_of(connection, task)
    assert [row[0] for row in await connection.fetch("SELECT task_id FROM ended_needs")] == tasks[
        :1
    ]


async def test_a_worker_that_stops_has_told_of_all_that_it_ended(
    connection: asyncpg.Connection, start_worker: StartWorker
) -> None:
    ends = asyncio.Event()

    @handler("step")
    async def step(_: Context) -> None:
        await ends.wait()

    tasks = await add_tasks(connection, 5, handler="step")
    worker = await start_worker(step, **WITHOUT_SWEEPS)

    async def running() -> bool:
        return await statuses(connection, tasks) == ["processing"] * 5

    await eventually("five runs", running)
    waits = [await add_waiting(connection, task) for task in tasks]
    ends.set()
    await worker.stop()
    assert await connection.fetchval("SELECT count(*) FROM queue WHERE state = 'ready'") == len(
        waits
    )


async def test_what_a_sweep_ends_for_a_dead_worker_is_told_in_the_same_sweep(
    connection: asyncpg.Connection, database: str
) -> None:
    worker = await add_worker(connection)
    [task] = await add_tasks(connection, max_attempts=1)
    waits = await add_waiting(connection, task)
    await claim(connection, worker, Bounds(["default"]), 1, start_at_once=True)
    await connection.execute(
        "UPDATE workers SET state = 'dead', dead_at = now(), dead_reason = 'crash'"
    )
    pool = await asyncpg.create_pool(database, min_size=1, max_size=1)
    await Maintenance(settings_for(database, use_optional_servers=False), pool.acquire).sweep(
        connection, strangers=False
    )
    assert await statuses(connection, [task, waits]) == ["failed", "cancelled"]
    await pool.close()


async def test_it_is_looked_up_by_index_whatever_the_statistics(
    connection: asyncpg.Connection,
) -> None:
    await insert_sample_tasks(connection, 10_000)
    waits = await add_waiting(connection, *await add_tasks(connection))
    ids = [waits, *(new_id() for _ in range(999))]
    await connection.execute(
        "INSERT INTO dependencies (task_id, needs, cancels) "
        "SELECT task_id, gen_random_uuid(), true FROM unnest($1::uuid[]) AS task_id, generate_series(1, 20)",
        ids,
    )
    await connection.execute("ANALYZE dependencies")
    many = "'{" + ",".join(map(str, ids)) + "}'"
    for name, values in (("resolve", many), ("unresolved", "1000"), ("waiting_for", many)):
        text = re.sub(
            r"\$1(::\w+(\[\])?)?", values + ("::uuid[]" if "{" in values else ""), statement(name)
        )
        plan = "\n".join(row[0] for row in await connection.fetch(f"EXPLAIN {text}"))
        assert not re.search("Seq Scan on (tasks|queue|runs)", plan), f"{name}: {plan}"
