"""Workers unblock the tasks that depend on tasks they end."""

import asyncio
import re
from uuid import UUID

import asyncpg
import pytest

from task_service.domain.ids import new_id
from task_service.loops.maintenance import Maintenance
from task_service.queue.claims import Bounds, claim
from task_service.queue.dependencies import Need, add_needs, resolve_dependents
from task_service.queue.statements import statement
from task_service.worker.handlers import Context, handler
from tests.support.sample_tasks import insert_sample_tasks
from tests.support.service_settings import settings_for
from tests.support.tasks import add_tasks, add_worker, statuses
from tests.support.waiting import eventually
from tests.support.worker_runs import StartWorker, wait_for_end

pytestmark = pytest.mark.asyncio
WITHOUT_SWEEPS = {"lease_seconds": 900, "heartbeat_seconds": 300}


async def add_dependent(
    connection: asyncpg.Connection, *needs: UUID, handler: str = "noop"
) -> UUID:
    """Add a task that depends on these."""
    async with connection.transaction():
        [task] = await add_tasks(connection, handler=handler)
        assert not await add_needs(connection, [Need(task, need, cancels=True) for need in needs])
    return task


async def test_dependents_run_at_once_and_dependents_of_a_failed_task_are_cancelled(
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
    second = await add_dependent(connection, first, handler="step")
    [fails] = await add_tasks(connection, handler="bad", max_attempts=1)
    third = await add_dependent(connection, second, handler="step")
    cancelled = await add_dependent(connection, second, fails, handler="step")
    await start_worker(step, bad, **WITHOUT_SWEEPS)
    await wait_for_end(connection, third)
    assert ran == [first, second, third]
    end = await wait_for_end(connection, cancelled)
    assert (end["outcome"], end["worker_id"]) == ("cancelled", None)


async def test_unblocked_tasks_notify_workers(
    connection: asyncpg.Connection, database: str
) -> None:
    [need] = await add_tasks(connection)
    await add_dependent(connection, need)
    await connection.execute("DELETE FROM queue WHERE task_id = $1", need)
    await connection.execute("UPDATE tasks SET status = 'completed' WHERE id = $1", need)
    listener, notified = await asyncpg.connect(database), asyncio.Event()
    await listener.add_listener("task_service_queue", lambda *_: notified.set())
    await resolve_dependents(connection, [need])
    await asyncio.wait_for(notified.wait(), 15)
    await listener.close()


async def test_completion_in_the_handlers_transaction_records_the_ended_need(
    connection: asyncpg.Connection, start_worker: StartWorker
) -> None:
    @handler("own")
    async def own(context: Context) -> None:
        async with context.transaction() as transaction:
            await transaction.complete()

    tasks = await add_tasks(connection, 2, handler="own")
    await add_dependent(connection, tasks[0])
    await start_worker(own, **WITHOUT_SWEEPS)
    for task in tasks:
        await wait_for_end(connection, task)
    assert [row[0] for row in await connection.fetch("SELECT task_id FROM ended_needs")] == tasks[
        :1
    ]


async def test_stopping_worker_has_unblocked_all_dependents(
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
    dependents = [await add_dependent(connection, task) for task in tasks]
    ends.set()
    await worker.stop()
    assert await connection.fetchval("SELECT count(*) FROM queue WHERE state = 'ready'") == len(
        dependents
    )


async def test_sweep_settles_dependents_of_the_tasks_it_fails(
    connection: asyncpg.Connection, database: str
) -> None:
    worker = await add_worker(connection)
    [task] = await add_tasks(connection, max_attempts=1)
    dependent = await add_dependent(connection, task)
    await claim(connection, worker, Bounds(["default"]), 1, start_at_once=True)
    await connection.execute(
        "UPDATE workers SET state = 'dead', dead_at = now(), dead_reason = 'crash'"
    )
    pool = await asyncpg.create_pool(database, min_size=1, max_size=1)
    await Maintenance(settings_for(database, use_optional_servers=False), pool.acquire).sweep(
        connection, orphans=False
    )
    assert await statuses(connection, [task, dependent]) == ["failed", "cancelled"]
    await pool.close()


async def test_dependency_statements_use_indexes(
    connection: asyncpg.Connection,
) -> None:
    await insert_sample_tasks(connection, 10_000)
    dependent = await add_dependent(connection, *await add_tasks(connection))
    ids = [dependent, *(new_id() for _ in range(999))]
    await connection.execute(
        "INSERT INTO dependencies (task_id, needs, cancels) "
        "SELECT task_id, gen_random_uuid(), true "
        "FROM unnest($1::uuid[]) AS task_id, generate_series(1, 20)",
        ids,
    )
    await connection.execute("ANALYZE dependencies")
    many = "'{" + ",".join(map(str, ids)) + "}'"
    for name, values in (
        ("resolve_dependents", many),
        ("list_unresolved_dependents", "1000"),
        ("list_dependents", many),
    ):
        text = re.sub(
            r"\$1(::\w+(\[\])?)?", values + ("::uuid[]" if "{" in values else ""), statement(name)
        )
        plan = "\n".join(row[0] for row in await connection.fetch(f"EXPLAIN {text}"))
        assert not re.search("Seq Scan on (tasks|queue|runs)", plan), f"{name}: {plan}"
