"""Release of tasks of dead workers, and detection of dead workers."""

from dataclasses import replace

import asyncpg
import pytest

from task_service.domain.outcomes import Reason
from task_service.queue import workers
from task_service.queue.claims import Bounds, claim, claim_alone
from task_service.queue.figures import queue_figures
from task_service.queue.workers import ReleaseResult, release_worker
from tests.support.tasks import add_tasks, add_worker, statuses

pytestmark = pytest.mark.asyncio


async def lose(
    connection: asyncpg.Connection, reason: Reason, *, started: bool = True
) -> workers.Release:
    worker = await add_worker(connection)
    claims = await claim(connection, worker, Bounds(["default"]), 100, start_at_once=started)
    if not claims:
        assert await claim_alone(connection, worker, ["default"], 0)
    await workers.declare_dead(connection, worker, reason)
    return await workers.release(connection, worker, reason)


@pytest.mark.parametrize(
    ("reason", "started", "attempts_used"),
    [
        (Reason.CRASH, True, 1),
        (Reason.OOM, True, 1),
        (Reason.CRASH, False, 0),
        (Reason.EVICTION, True, 0),
        (Reason.ROLLOUT, True, 0),
        (Reason.DRAIN, True, 0),
        (Reason.SCALE_DOWN, True, 0),
        (Reason.UNKNOWN, True, 0),
    ],
)
async def test_reason_decides_whether_an_attempt_counts(
    connection: asyncpg.Connection, reason: Reason, started: bool, attempts_used: int
) -> None:
    [task] = await add_tasks(connection)
    assert (await lose(connection, reason, started=started)).released == 1
    [row] = await connection.fetch("SELECT state, attempt, worker_id FROM queue")
    assert dict(row) == {"state": "ready", "attempt": attempts_used, "worker_id": None}
    [run] = await connection.fetch(
        "SELECT outcome, reason, final FROM runs WHERE task_id = $1", task
    )
    assert dict(run) == {"outcome": "lost", "reason": reason.value, "final": False}


async def test_crash_in_the_last_attempt_fails_the_task(
    connection: asyncpg.Connection,
) -> None:
    ids = await add_tasks(connection, max_attempts=1)
    assert await lose(connection, Reason.OOM) == workers.Release(released=0, failed=1)
    assert await statuses(connection, ids) == ["failed"]
    assert "oom" in await connection.fetchval("SELECT error FROM runs")


async def test_task_that_kills_workers_runs_alone_and_fails_without_its_neighbors(
    connection: asyncpg.Connection,
) -> None:
    ids = await add_tasks(connection, 3)
    await lose(connection, Reason.UNKNOWN)
    await lose(connection, Reason.UNKNOWN)
    assert await connection.fetchval("SELECT count(*) FROM queue WHERE alone") == 3
    worker = await add_worker(connection)
    assert await claim(connection, worker, Bounds(["default"]), 10, start_at_once=True) == []
    assert (await lose(connection, Reason.UNKNOWN)).failed == 1
    assert sorted(await statuses(connection, ids)) == ["failed", "pending", "pending"]
    assert "alone" in await connection.fetchval("SELECT error FROM runs WHERE final")


async def test_release_is_idempotent_and_a_later_reason_replaces_unknown(
    connection: asyncpg.Connection,
) -> None:
    worker = await add_worker(connection)
    await add_tasks(connection, 2)
    await claim(connection, worker, Bounds(["default"]), 2, start_at_once=True)
    first = await release_worker(connection, worker, Reason.UNKNOWN)
    second = await release_worker(connection, worker, Reason.OOM)
    assert first == ReleaseResult(released=2, failed=0, explained=0, already_dead=False)
    assert second == ReleaseResult(released=0, failed=0, explained=2, already_dead=True)
    assert await release_worker(connection, worker, Reason.CRASH) == replace(second, explained=0)
    assert {r["reason"] for r in await connection.fetch("SELECT reason FROM runs")} == {"oom"}


async def test_tasks_of_a_living_worker_are_not_released(
    connection: asyncpg.Connection,
) -> None:
    worker = await add_worker(connection)
    await add_tasks(connection)
    await claim(connection, worker, Bounds(["default"]), 1, start_at_once=True)
    assert await workers.release(connection, worker, Reason.CRASH) == workers.Release(0, 0)


async def test_tasks_of_an_unregistered_worker_are_found(
    connection: asyncpg.Connection,
) -> None:
    worker = await add_worker(connection)
    ids = await add_tasks(connection)
    await claim(connection, worker, Bounds(["default"]), 1, start_at_once=True)
    await connection.execute("DELETE FROM workers")
    assert await workers.list_unreleased(connection, orphans=False) == []
    [(orphan, reason)] = await workers.list_unreleased(connection, orphans=True)
    await workers.release(connection, orphan, reason)
    assert await statuses(connection, ids) == ["pending"]


async def test_expired_worker_is_declared_dead_only_after_enough_server_uptime(
    connection: asyncpg.Connection,
) -> None:
    expired = await add_worker(connection, lease_seconds=0.001)
    long_lease = await add_worker(connection, lease_seconds=1e6)
    await connection.execute(
        "UPDATE workers SET heartbeat_at = now() - interval '1 minute' WHERE id = $1", expired
    )
    await connection.execute(
        "UPDATE workers SET heartbeat_at = now() - interval '20 days' WHERE id = $1", long_lease
    )
    assert await workers.declare_expired(connection) == [expired], (
        "the server has not run as long as the other lease"
    )
    assert await workers.heartbeat(connection, expired) is None, "death is final"


async def test_worker_is_not_declared_dead_during_a_claim(
    database: str, connection: asyncpg.Connection
) -> None:
    worker = await add_worker(connection, lease_seconds=0.001)
    await add_tasks(connection)
    other = await asyncpg.connect(database)
    async with other.transaction():
        await claim(other, worker, Bounds(["default"]), 1, start_at_once=True)
        assert await workers.declare_expired(connection) == []
    assert await workers.declare_expired(connection) == [worker]
    await other.close()


async def test_only_unreleased_workers_of_the_same_slot_are_predecessors(
    connection: asyncpg.Connection,
) -> None:
    first = await add_worker(connection, slot="worker:0")
    elsewhere = await add_worker(connection, slot="worker:1")
    rows = await connection.fetch(
        "SELECT id FROM workers WHERE slot = 'worker:0' AND released_at IS NULL"
    )
    assert [r["id"] for r in rows] == [first]
    assert elsewhere != first


async def test_queue_figures_count_tasks_by_state(connection: asyncpg.Connection) -> None:
    worker = await add_worker(connection)
    await add_tasks(connection, 3)
    await add_tasks(connection, 1, queue="mail")
    await claim(connection, worker, Bounds(["default"]), 1, start_at_once=True)
    figures = await queue_figures(connection)
    assert {k: figures[k] for k in ("ready", "running", "scheduled", "blocked")} == {
        "ready": 3,
        "running": 1,
        "scheduled": 0,
        "blocked": 0,
    }
    assert [q["name"] for q in figures["queues"]] == ["default", "mail"]
    assert figures["oldest_age_seconds"] > 0
