"""Admission of tasks that wait for a limit, one statement at a time."""

import asyncio
from collections import Counter
from uuid import UUID

import asyncpg
import pytest

from task_service.domain.outcomes import Outcome, Reason
from task_service.queue import limits, results, workers
from task_service.queue.claims import Bounds, Claim, claim
from task_service.queue.results import Finished, GivenBack
from tests.support.tasks import add_tasks, add_worker, set_limit, statuses

pytestmark = pytest.mark.asyncio


async def admit_all(connection: asyncpg.Connection) -> int:
    """Admit until no task can be admitted; return the number of admitted tasks."""
    total = 0
    while done := await limits.admit(connection):
        if not done.admitted:
            break
        total += done.admitted
    return total


async def claim_all(
    connection: asyncpg.Connection, worker: UUID, queues: tuple[str, ...] = ("default",)
) -> list[Claim]:
    return await claim(connection, worker, Bounds(queues), 500, start_at_once=True)


async def finish(connection: asyncpg.Connection, worker: UUID, claims: list[Claim]) -> None:
    await results.finish(
        connection, worker, [Finished(c.task_id, c.fence, Outcome.COMPLETED) for c in claims]
    )


async def states(connection: asyncpg.Connection) -> dict[str, int]:
    rows = await connection.fetch("SELECT state, count(*) FROM queue GROUP BY 1")
    return {row[0]: row[1] for row in rows}


@pytest.mark.parametrize("kind", ["queue", "key"])
async def test_tasks_are_admitted_up_to_the_limit(
    connection: asyncpg.Connection, kind: str
) -> None:
    await set_limit(connection, kind, "a", concurrency=3)
    entry = {"queue": "a"} if kind == "queue" else {"limit_key": "a"}
    ids = await add_tasks(connection, 10, **entry)
    worker, queues = await add_worker(connection), ("a", "default")
    assert await claim_all(connection, worker, queues) == [], "no task is admitted yet"
    assert await statuses(connection, ids) == ["pending"] * 10
    assert await admit_all(connection) == 3
    held = await claim_all(connection, worker, queues)
    assert [c.task_id for c in held] == ids[:3], "the oldest first"
    assert all(c.limited for c in held)
    assert await admit_all(connection) == 0, "running tasks use the capacity"
    await finish(connection, worker, held[:2])
    assert await admit_all(connection) == 2
    assert await states(connection) == {"running": 1, "ready": 2, "blocked": 5}


async def test_tasks_without_limits_are_claimed_without_admission(
    connection: asyncpg.Connection,
) -> None:
    await set_limit(connection, "queue", "a", concurrency=1)
    await set_limit(connection, "key", "default", concurrency=1)
    await add_tasks(connection, 5)
    claims = await claim_all(connection, await add_worker(connection))
    assert len(claims) == 5
    assert not any(c.limited for c in claims)
    assert await admit_all(connection) == 0


async def test_task_under_two_limits_respects_both(connection: asyncpg.Connection) -> None:
    await set_limit(connection, "queue", "a", concurrency=4)
    await set_limit(connection, "key", "x", concurrency=3)
    await set_limit(connection, "key", "y", concurrency=3)
    await add_tasks(connection, 10, queue="a", limit_key="x")
    await add_tasks(connection, 10, queue="b", limit_key="x")
    await add_tasks(connection, 10, queue="a", limit_key="y")
    await admit_all(connection)
    rows = await connection.fetch("SELECT queue, limit_key FROM queue WHERE state = 'ready'")
    assert Counter(row["queue"] for row in rows) == {"a": 4, "b": 1}, (
        "the third task of x comes from the queue with capacity"
    )
    assert Counter(row["limit_key"] for row in rows) == {"x": 3, "y": 2}


async def test_full_queue_does_not_block_its_key_in_other_queues(
    connection: asyncpg.Connection,
) -> None:
    await set_limit(connection, "queue", "full", concurrency=1)
    await set_limit(connection, "key", "x", concurrency=2)
    await add_tasks(connection, 300, queue="full", limit_key="x")
    await add_tasks(connection, 2, queue="free", limit_key="x")
    assert await admit_all(connection) == 2
    rows = await connection.fetch("SELECT queue FROM queue WHERE state = 'ready' ORDER BY 1")
    assert [row[0] for row in rows] == ["free", "full"]


async def test_keys_take_turns_in_a_limited_queue(connection: asyncpg.Connection) -> None:
    """With one task at a time, a thousand older tasks of one key do not delay ten of another."""
    await set_limit(connection, "queue", "default", concurrency=1)
    many = set(await add_tasks(connection, 1_000, limit_key="many"))
    few = set(await add_tasks(connection, 10, limit_key="few"))
    worker = await add_worker(connection)
    order: list[UUID] = []
    while few - set(order):
        await admit_all(connection)
        [held] = await claim_all(connection, worker)
        order.append(held.task_id)
        await finish(connection, worker, [held])
    assert len(many - set(order)) > 500, "the ten tasks end long before the thousand"


async def test_key_without_a_limit_is_admitted_up_to_a_window(
    connection: asyncpg.Connection,
) -> None:
    await add_tasks(connection, 1_000, limit_key="many")
    few = await add_tasks(connection, 10, limit_key="few")
    await admit_all(connection)
    rows = await connection.fetch(
        "SELECT limit_key, count(*) FROM queue WHERE state = 'ready' GROUP BY 1"
    )
    assert {row[0]: row[1] for row in rows} == {"many": limits.READY_PER_KEY, "few": 10}
    order = [c.task_id for c in await claim_all(connection, await add_worker(connection))]
    assert set(few) <= set(order[:20]), "the keys take turns"


async def test_tasks_are_claimed_in_order_of_admission(
    connection: asyncpg.Connection,
) -> None:
    """Otherwise older tasks of a key with many tasks would always precede those of others."""
    await add_tasks(connection, 200, limit_key="many")
    await admit_all(connection)
    [one] = await add_tasks(connection, limit_key="few")
    await admit_all(connection)
    worker = await add_worker(connection)
    first = await claim(connection, worker, Bounds(["default"]), 50, start_at_once=True)
    await finish(connection, worker, first)
    await admit_all(connection)
    order = [c.task_id for c in await claim_all(connection, worker)]
    assert order.index(one) == 50, (
        "after the fifty tasks that were admitted before it, and before the later ones"
    )


async def test_priority_precedes_age(connection: asyncpg.Connection) -> None:
    await set_limit(connection, "key", "x", concurrency=2)
    await add_tasks(connection, 5, limit_key="x", priority=3)
    urgent = await add_tasks(connection, 1, limit_key="x", priority=0)
    await admit_all(connection)
    rows = await connection.fetch(
        "SELECT task_id FROM queue WHERE state = 'ready' ORDER BY priority"
    )
    assert len(rows) == 2
    assert rows[0][0] == urgent[0]


async def test_rate_limit_admits_available_tokens_and_returns_the_next_refill(
    connection: asyncpg.Connection,
) -> None:
    await set_limit(connection, "key", "x", rate=5, period_seconds=3600)
    await add_tasks(connection, 20, limit_key="x")
    assert await admit_all(connection) == 5
    worker = await add_worker(connection)
    await finish(connection, worker, await claim_all(connection, worker))
    done = await limits.admit(connection)
    assert done is not None
    assert done.admitted == 0, "completed tasks return no token"
    assert done.seconds is not None
    assert 0 < done.seconds <= 720
    await connection.execute("UPDATE limits SET tokens_at = tokens_at - interval '25 minutes'")
    assert await admit_all(connection) == 2
    await connection.execute("UPDATE limits SET tokens_at = tokens_at - interval '10 hours'")
    assert await admit_all(connection) == 3, "together with two admitted tasks, the bucket is full"


async def test_rate_of_a_queue_counts_all_its_keys(connection: asyncpg.Connection) -> None:
    await set_limit(connection, "queue", "default", rate=5, period_seconds=3600)
    for key in ("x", "y", None):
        await add_tasks(connection, 5, limit_key=key)
    assert await admit_all(connection) == 5


async def test_new_limit_applies_to_waiting_tasks(
    connection: asyncpg.Connection,
) -> None:
    await add_tasks(connection, 20)
    worker = await add_worker(connection)
    running = await claim(connection, worker, Bounds(["default"]), 2, start_at_once=True)
    await set_limit(connection, "queue", "default", concurrency=3)
    assert await limits.block_by_limit(connection)
    assert await states(connection) == {"running": 2, "blocked": 18}
    assert await admit_all(connection) == 1, "running tasks count"
    await finish(connection, worker, running)
    assert await admit_all(connection) == 2


@pytest.mark.parametrize("kind", ["queue", "key"])
async def test_lowered_limit_blocks_ready_tasks_and_raised_limit_admits_more(
    connection: asyncpg.Connection, kind: str
) -> None:
    await set_limit(connection, kind, "a", concurrency=6)
    await add_tasks(connection, 20, queue="a", limit_key="a")
    await admit_all(connection)
    worker = await add_worker(connection)
    await claim(connection, worker, Bounds(["a"]), 2, start_at_once=True)
    await set_limit(connection, kind, "a", concurrency=3)
    await limits.block_by_limit(connection)
    assert await states(connection) == {"running": 2, "ready": 1, "blocked": 17}
    await set_limit(connection, kind, "a", concurrency=1)
    await limits.block_by_limit(connection)
    assert await states(connection) == {"running": 2, "blocked": 18}
    assert await admit_all(connection) == 0
    await set_limit(connection, kind, "a", concurrency=5)
    assert await admit_all(connection) == 3


@pytest.mark.parametrize("kind", ["queue", "key"])
async def test_deleted_limit_admits_all_tasks(connection: asyncpg.Connection, kind: str) -> None:
    await set_limit(connection, kind, "a", concurrency=1)
    await add_tasks(connection, 20, queue="a", limit_key="a" if kind == "key" else None)
    await admit_all(connection)
    await connection.execute("DELETE FROM limits")
    assert await admit_all(connection) == 19


async def test_ready_tasks_of_an_older_version_count_and_are_blocked(
    connection: asyncpg.Connection,
) -> None:
    await set_limit(connection, "key", "x", concurrency=2)
    await add_tasks(connection, 5, limit_key="x")
    await connection.execute("UPDATE queue SET state = 'ready'")
    assert await admit_all(connection) == 0
    await limits.block_by_limit(connection)
    assert await states(connection) == {"ready": 2, "blocked": 3}


async def test_paused_queue_uses_no_capacity(connection: asyncpg.Connection) -> None:
    await set_limit(connection, "key", "x", concurrency=2)
    await add_tasks(connection, 5, limit_key="x", queue="a")
    await add_tasks(connection, 5, limit_key="x", queue="b")
    await connection.execute("INSERT INTO paused_queues (name) VALUES ('b')")
    assert await admit_all(connection) == 2
    await connection.execute("UPDATE paused_queues SET name = 'a'")
    await limits.block_by_limit(connection)
    assert await admit_all(connection) == 2
    rows = await connection.fetch("SELECT DISTINCT queue FROM queue WHERE state = 'ready'")
    assert [row[0] for row in rows] == ["b"]


async def test_scheduled_tasks_are_admitted_when_due(connection: asyncpg.Connection) -> None:
    await set_limit(connection, "key", "x", concurrency=2)
    [task] = await add_tasks(
        connection, limit_key="x", run_at=await connection.fetchval("SELECT now() + interval '1 h'")
    )
    assert await statuses(connection, [task]) == ["scheduled"]
    assert await admit_all(connection) == 0
    await connection.execute("UPDATE queue SET run_at = now()")
    assert await admit_all(connection) == 1


@pytest.mark.parametrize("way", ["retry", "snooze", "release"])
async def test_returned_task_waits_for_admission_again(
    connection: asyncpg.Connection, way: str
) -> None:
    await set_limit(connection, "key", "x", concurrency=1)
    await add_tasks(connection, 3, limit_key="x")
    await admit_all(connection)
    worker = await add_worker(connection)
    [held] = await claim_all(connection, worker)
    if way == "release":
        await workers.declare_dead(connection, worker, Reason.CRASH)
        assert await admit_all(connection) == 0, (
            "tasks of a dead worker count until they are released"
        )
        await workers.release(connection, worker, Reason.CRASH)
    else:
        outcome = Outcome.FAILED if way == "retry" else Outcome.SNOOZED
        await results.give_back(connection, worker, [GivenBack(held.task_id, held.fence, outcome)])
    assert await states(connection) == {"blocked": 3}
    assert await admit_all(connection) == 1


async def test_admission_is_exclusive_and_sees_earlier_admissions(
    database: str, connection: asyncpg.Connection
) -> None:
    await set_limit(connection, "key", "x", concurrency=7)
    await add_tasks(connection, 500, limit_key="x")
    others = [await asyncpg.connect(database) for _ in range(8)]
    for _ in range(20):
        await asyncio.gather(*(limits.admit(other) for other in others))
        assert (await states(connection)).get("ready", 0) <= 7
    holder = connection.transaction()
    await holder.start()
    assert await limits.admit(connection) is not None
    assert await limits.admit(others[0]) is None
    assert not await limits.block_by_limit(others[0])
    await holder.rollback()
    for other in others:
        await other.close()


async def test_admission_is_shared_between_many_keys(connection: asyncpg.Connection) -> None:
    for number in range(50):
        await add_tasks(connection, 50, limit_key=f"key-{number}")
    done = await limits.admit(connection)
    assert done is not None
    assert done.admitted == limits.BATCH
    rows = await connection.fetch(
        "SELECT limit_key, count(*) FROM queue WHERE state = 'ready' GROUP BY 1"
    )
    assert {row[1] for row in rows} == {10}
    assert await admit_all(connection) == 2_000


async def test_worker_serves_its_queues_in_turn(connection: asyncpg.Connection) -> None:
    """Claims start with each queue in turn; urgent tasks of any queue still come first."""
    await add_tasks(connection, 60, queue="a")
    await add_tasks(connection, 60, queue="b")
    worker, bounds = await add_worker(connection), Bounds(["a", "b"])
    served = []
    for _ in range(4):
        claims = await claim(connection, worker, bounds, 20, start_at_once=True)
        [queue] = {c.queue for c in claims}
        served.append(queue)
    assert served == ["a", "b", "a", "b"]
    urgent = await add_tasks(connection, 1, queue="b", priority=0)
    claims = await claim(connection, worker, bounds, 1, start_at_once=True)
    assert [c.task_id for c in claims] == urgent


async def test_limit_check_is_due_if_limits_exist_and_no_check_ran(
    connection: asyncpg.Connection,
) -> None:
    assert not await limits.is_check_due(connection, 0), "there are no limits"
    await add_tasks(connection, limit_key="x")
    assert await limits.is_check_due(connection, 60)
    await limits.block_by_limit(connection)
    assert not await limits.is_check_due(connection, 60), "another process has looked"
    assert await limits.is_check_due(connection, 0)
