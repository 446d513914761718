"""Tasks that ended long ago are forgotten, and no others; nobody waits for it."""

import asyncio
from collections.abc import Sequence
from contextlib import nullcontext
from datetime import timedelta
from uuid import UUID

import asyncpg
import pytest

from task_service.domain.outcomes import Outcome
from task_service.loops.maintenance import Maintenance
from task_service.queue import results
from task_service.queue.claims import Bounds, claim
from task_service.queue.results import Finished
from task_service.store.retention import DONE, FAILED, FORGET, forget_tasks
from tests.support.service_settings import settings_for
from tests.support.tasks import add_tasks, add_worker
from tests.support.waiting import eventually

pytestmark = pytest.mark.asyncio
NUMBERS = """
    SELECT dimension, value FROM (TABLE task_counts UNION ALL SELECT dimension, value, number FROM task_deltas) AS parts
    GROUP BY dimension, value HAVING sum(number) <> 0
"""
TABLES = ("tasks", "runs", "task_history", "conversations")


def made_ago(task: UUID, days: float) -> UUID:
    """The same id, made so many days ago."""
    milliseconds = (task.int >> 80) - int(timedelta(days=days).total_seconds() * 1000)
    return UUID(int=milliseconds << 80 | task.int & (1 << 80) - 1)


async def ended(
    connection: asyncpg.Connection, outcome: Outcome, days: float, count: int = 1
) -> list[UUID]:
    """Tasks that were made and ended so many days ago, each with a conversation and a line of history."""
    tasks = await add_tasks(connection, count)
    worker = await add_worker(connection)
    claims = await claim(connection, worker, Bounds(["default"]), count, start_at_once=True)
    ends = [Finished(c.task_id, c.fence, outcome, error="x") for c in claims if c.task_id in tasks]
    assert len(await results.finish(connection, worker, ends)) == count
    old = [made_ago(task, days) for task in tasks]
    for table, column in (("tasks", "id"), ("runs", "task_id")):
        pairs = "unnest($1::uuid[], $2::uuid[]) AS m (old, new)"
        move = f"UPDATE {table} SET {column} = m.new FROM {pairs} WHERE {column} = m.old"
        await connection.execute(move, tasks, old)
    await connection.execute(
        "UPDATE runs SET finished_at = now() - make_interval(secs => $1) WHERE task_id = ANY ($2)",
        days * 86_400,
        old,
    )
    await connection.execute(
        "INSERT INTO conversations (id, task_id, body) SELECT gen_random_uuid(), i, '{}' FROM unnest($1::uuid[]) AS i",
        old,
    )
    await connection.execute(
        "INSERT INTO task_history (task_id, new_status) SELECT id, 'pending' FROM unnest($1::uuid[]) AS id",
        old,
    )
    return old


async def left(connection: asyncpg.Connection) -> set[UUID]:
    """The tasks that are there; all tables must agree."""
    found = []
    for table in TABLES:
        column = "id" if table == "tasks" else "task_id"
        found.append(
            {row[0] for row in await connection.fetch(f"SELECT DISTINCT {column} FROM {table}")}
        )
    assert all(ids == found[0] for ids in found), found
    return found[0]


async def forget(connection: asyncpg.Connection, outcomes: Sequence[Outcome], days: float) -> int:
    return await forget_tasks(lambda: nullcontext(connection), outcomes, days)


async def test_what_ended_before_the_time_is_forgotten_with_all_that_belongs_to_it(
    connection: asyncpg.Connection,
) -> None:
    old_done, new_done = (
        await ended(connection, Outcome.COMPLETED, 8),
        await ended(connection, Outcome.COMPLETED, 6),
    )
    cancelled, failed = (
        await ended(connection, Outcome.CANCELLED, 8),
        await ended(connection, Outcome.FAILED, 30),
    )
    everything = {*old_done, *new_done, *cancelled, *failed}
    assert await forget(connection, DONE, 0) == await forget(connection, FAILED, 0) == 0
    assert await left(connection) == everything
    assert await forget(connection, DONE, 7) == 2
    assert await left(connection) == {*new_done, *failed}
    assert await forget(connection, FAILED, 29.5) == 1
    assert await left(connection) == {*new_done}


async def test_what_runs_again_or_ended_lately_or_is_a_persons_stays(
    connection: asyncpg.Connection,
) -> None:
    [again], [late] = (
        await ended(connection, Outcome.FAILED, 30),
        await ended(connection, Outcome.FAILED, 30),
    )
    await connection.execute(
        "UPDATE runs SET final = false, reopened = true WHERE task_id = $1", again
    )
    await connection.execute("UPDATE runs SET finished_at = now() WHERE task_id = $1", late)
    await connection.execute(
        "INSERT INTO tasks (id, title, status, created_at) VALUES ($1, 'a task', 'failed', now() - interval '30 days')",
        made_ago(again, 1),
    )
    assert await forget(connection, FAILED, 1) == 0


async def test_nobody_waits_and_what_is_locked_goes_the_next_time(
    connection: asyncpg.Connection, database: str
) -> None:
    changed, running, free = await ended(connection, Outcome.FAILED, 9, 3)
    other = await asyncpg.connect(database)
    transaction = other.transaction()
    await transaction.start()
    await other.execute("SELECT FROM tasks WHERE id = $1 FOR UPDATE", changed)
    await other.execute("SELECT FROM runs WHERE task_id = $1 FOR UPDATE", running)
    assert await asyncio.wait_for(forget(connection, FAILED, 7), 5) == 1
    assert await left(connection) == {changed, running}
    await transaction.rollback()
    await other.execute("SELECT pg_advisory_lock(7305612448003)")  # somebody else is at it
    assert await forget(connection, FAILED, 7) == 0
    await other.execute("SELECT pg_advisory_unlock(7305612448003)")
    await other.close()
    assert await forget(connection, FAILED, 7) == 2
    assert free not in await left(connection)


async def test_many_go_in_batches_and_the_statistics_agree(connection: asyncpg.Connection) -> None:
    await ended(connection, Outcome.COMPLETED, 3, 1_200)
    assert await forget(connection, DONE, 2) == 1_200
    assert await left(connection) == set()
    assert not await connection.fetch(NUMBERS)


async def test_the_search_reads_the_index_of_ends_from_its_beginning(
    connection: asyncpg.Connection,
) -> None:
    plan = "\n".join(
        row[0] for row in await connection.fetch("EXPLAIN " + FORGET, list(DONE), 86_400.0, 500)
    )
    assert "runs_final" in plan
    assert "Seq Scan on runs" not in plan


async def test_maintenance_does_it_when_the_settings_say_so(
    connection: asyncpg.Connection, database: str
) -> None:
    await ended(connection, Outcome.COMPLETED, 3)
    [failed] = await ended(connection, Outcome.FAILED, 3)
    pool = await asyncpg.create_pool(database, min_size=1, max_size=1)
    maintenance = Maintenance(
        settings_for(database, use_optional_servers=False, keep_done_days=2), pool.acquire
    )
    task = asyncio.create_task(maintenance.run())

    async def forgotten() -> bool:
        return await left(connection) == {failed}

    await eventually("the completed one is gone", forgotten)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await pool.close()
