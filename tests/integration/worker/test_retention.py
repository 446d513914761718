"""Retention: tasks that ended long ago are deleted without blocking other transactions."""

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
NONZERO_COUNTERS = """
    SELECT dimension, value
    FROM (TABLE task_counts UNION ALL SELECT dimension, value, number FROM task_deltas) AS parts
    GROUP BY dimension, value HAVING sum(number) <> 0
"""
INSERT_CONVERSATIONS = """
    INSERT INTO conversations (id, task_id, body)
    SELECT gen_random_uuid(), task_id, '{}' FROM unnest($1::uuid[]) AS task_id
"""
INSERT_HISTORY = """
    INSERT INTO task_history (task_id, new_status)
    SELECT task_id, 'pending' FROM unnest($1::uuid[]) AS task_id
"""
INSERT_MANUAL_TASK = """
    INSERT INTO tasks (id, title, status, created_at)
    VALUES ($1, 'a task', 'failed', now() - interval '30 days')
"""
TABLES = ("tasks", "runs", "task_history", "conversations")


def backdate_id(task: UUID, days: float) -> UUID:
    """Return the id with a timestamp that lies this many days in the past."""
    milliseconds = (task.int >> 80) - int(timedelta(days=days).total_seconds() * 1000)
    return UUID(int=milliseconds << 80 | task.int & (1 << 80) - 1)


async def add_ended_tasks(
    connection: asyncpg.Connection, outcome: Outcome, days: float, count: int = 1
) -> list[UUID]:
    """Add tasks that ended this many days ago, each with a conversation and history."""
    tasks = await add_tasks(connection, count)
    worker = await add_worker(connection)
    claims = await claim(connection, worker, Bounds(["default"]), count, start_at_once=True)
    ends = [Finished(c.task_id, c.fence, outcome, error="x") for c in claims if c.task_id in tasks]
    assert len(await results.finish(connection, worker, ends)) == count
    old = [backdate_id(task, days) for task in tasks]
    for table, column in (("tasks", "id"), ("runs", "task_id")):
        pairs = "unnest($1::uuid[], $2::uuid[]) AS m (old, new)"
        move = f"UPDATE {table} SET {column} = m.new FROM {pairs} WHERE {column} = m.old"
        await connection.execute(move, tasks, old)
    await connection.execute(
        "UPDATE runs SET finished_at = now() - make_interval(secs => $1) WHERE task_id = ANY ($2)",
        days * 86_400,
        old,
    )
    await connection.execute(INSERT_CONVERSATIONS, old)
    await connection.execute(INSERT_HISTORY, old)
    return old


async def remaining_tasks(connection: asyncpg.Connection) -> set[UUID]:
    """Return the ids of the remaining tasks, which must be the same in all tables."""
    found: list[set[UUID]] = []
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        for table in TABLES:
            column = "id" if table == "tasks" else "task_id"
            rows = await connection.fetch(f"SELECT DISTINCT {column} FROM {table}")
            found.append({row[0] for row in rows})
    assert all(ids == found[0] for ids in found), found
    return found[0]


async def forget(connection: asyncpg.Connection, outcomes: Sequence[Outcome], days: float) -> int:
    return await forget_tasks(lambda: nullcontext(connection), outcomes, days)


async def test_old_tasks_are_deleted_with_their_related_rows(
    connection: asyncpg.Connection,
) -> None:
    old_done, new_done = (
        await add_ended_tasks(connection, Outcome.COMPLETED, 8),
        await add_ended_tasks(connection, Outcome.COMPLETED, 6),
    )
    cancelled, failed = (
        await add_ended_tasks(connection, Outcome.CANCELLED, 8),
        await add_ended_tasks(connection, Outcome.FAILED, 30),
    )
    everything = {*old_done, *new_done, *cancelled, *failed}
    assert await forget(connection, DONE, 0) == await forget(connection, FAILED, 0) == 0
    assert await remaining_tasks(connection) == everything
    assert await forget(connection, DONE, 7) == 2
    assert await remaining_tasks(connection) == {*new_done, *failed}
    assert await forget(connection, FAILED, 29.5) == 1
    assert await remaining_tasks(connection) == {*new_done}


async def test_reopened_recent_and_manual_tasks_are_kept(
    connection: asyncpg.Connection,
) -> None:
    [again], [late] = (
        await add_ended_tasks(connection, Outcome.FAILED, 30),
        await add_ended_tasks(connection, Outcome.FAILED, 30),
    )
    await connection.execute(
        "UPDATE runs SET final = false, reopened = true WHERE task_id = $1", again
    )
    await connection.execute("UPDATE runs SET finished_at = now() WHERE task_id = $1", late)
    await connection.execute(INSERT_MANUAL_TASK, backdate_id(again, 1))
    assert await forget(connection, FAILED, 1) == 0


async def test_locked_tasks_are_skipped_and_deleted_the_next_time(
    connection: asyncpg.Connection, database: str
) -> None:
    changed, running, free = await add_ended_tasks(connection, Outcome.FAILED, 9, 3)
    other = await asyncpg.connect(database)
    transaction = other.transaction()
    await transaction.start()
    await other.execute("SELECT FROM tasks WHERE id = $1 FOR UPDATE", changed)
    await other.execute("SELECT FROM runs WHERE task_id = $1 FOR UPDATE", running)
    assert await asyncio.wait_for(forget(connection, FAILED, 7), 5) == 1
    assert await remaining_tasks(connection) == {changed, running}
    await transaction.rollback()
    await other.execute("SELECT pg_advisory_lock(7305612448003)")  # another process deletes
    assert await forget(connection, FAILED, 7) == 0
    await other.execute("SELECT pg_advisory_unlock(7305612448003)")
    await other.close()
    assert await forget(connection, FAILED, 7) == 2
    assert free not in await remaining_tasks(connection)


async def test_many_tasks_are_deleted_in_batches_and_counters_agree(
    connection: asyncpg.Connection,
) -> None:
    await add_ended_tasks(connection, Outcome.COMPLETED, 3, 1_200)
    assert await forget(connection, DONE, 2) == 1_200
    assert await remaining_tasks(connection) == set()
    assert not await connection.fetch(NONZERO_COUNTERS)


async def test_retention_query_uses_the_index_of_final_runs(
    connection: asyncpg.Connection,
) -> None:
    plan = "\n".join(
        row[0] for row in await connection.fetch("EXPLAIN " + FORGET, list(DONE), 86_400.0, 500)
    )
    assert "runs_final" in plan
    assert "Seq Scan on runs" not in plan


async def test_maintenance_deletes_old_tasks_when_configured(
    connection: asyncpg.Connection, database: str
) -> None:
    await add_ended_tasks(connection, Outcome.COMPLETED, 3)
    [failed] = await add_ended_tasks(connection, Outcome.FAILED, 3)
    pool = await asyncpg.create_pool(database, min_size=1, max_size=1)
    settings = settings_for(database, use_optional_servers=False, keep_done_days=2)
    maintenance = Maintenance(settings, pool.acquire).loop()
    await maintenance.start()

    async def forgotten() -> bool:
        return await remaining_tasks(connection) == {failed}

    await eventually("the completed one is gone", forgotten)
    await maintenance.stop()
    await pool.close()
