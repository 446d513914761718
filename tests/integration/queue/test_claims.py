"""Claims: order, exclusion, fences, bounds, and workers that may not claim."""

import asyncio
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from task_service.domain.outcomes import Outcome, Reason
from task_service.queue import results, workers
from task_service.queue.claims import Bounds, claim, claim_alone, claim_in_slot, claim_slots
from task_service.queue.results import Finished
from tests.support.tasks import add_tasks, add_worker, statuses

pytestmark = pytest.mark.asyncio


def no_bounds() -> Bounds:
    return Bounds(["default"])


async def test_tasks_are_claimed_by_priority_then_age(
    connection: asyncpg.Connection,
) -> None:
    worker = await add_worker(connection)
    [low] = await add_tasks(connection, priority=3)
    old, new = await add_tasks(connection, 2)
    [urgent] = await add_tasks(connection, priority=0)
    claims = [
        (await claim(connection, worker, no_bounds(), 1, start_at_once=True))[0].task_id
        for _ in range(4)
    ]
    assert claims == [urgent, old, new, low]


async def test_concurrent_claims_never_return_the_same_task(
    database: str, connection: asyncpg.Connection
) -> None:
    await add_tasks(connection, 300)
    connections = [await asyncpg.connect(database) for _ in range(8)]
    ids = [await add_worker(c) for c in connections]
    batches = await asyncio.gather(
        *(
            claim(c, w, no_bounds(), 30, start_at_once=True)
            for c, w in zip(connections, ids, strict=True)
            for _ in [0]
        )
    )
    claimed = [c.task_id for batch in batches for c in batch]
    assert len(claimed) == len(set(claimed)) == 240
    for c in connections:
        await c.close()


async def test_claim_slot_is_exclusive_until_the_claim_commits(
    database: str, connection: asyncpg.Connection
) -> None:
    worker, other = await add_worker(connection), await add_worker(connection)
    ids = await add_tasks(connection, 2)
    other_connection = await asyncpg.connect(database)
    slot, other_slot, *_ = claim_slots(["default"])

    async def try_claim(slot: int) -> int | None:
        claims = await claim_in_slot(
            connection, worker, no_bounds(), 1, slot, start_at_once=True, look_back=True
        )
        return None if claims is None else len(claims)

    async with other_connection.transaction():
        assert (
            await claim_in_slot(
                other_connection, other, no_bounds(), 0, slot, start_at_once=True, look_back=True
            )
            == []
        )
        assert await try_claim(slot) is None
        assert await statuses(connection, ids) == ["pending", "pending"]
        assert await try_claim(other_slot) == 1
    assert [await try_claim(slot), await try_claim(slot)] == [1, 0]
    await other_connection.close()


async def test_workers_of_different_queues_use_different_claim_slots() -> None:
    assert claim_slots(["a", "b"]) == claim_slots(["b", "a"])
    assert not {*claim_slots(["a", "b"])} & ({*claim_slots(["ab"])} | {*claim_slots(["a"])})


async def test_task_with_a_future_run_at_is_scheduled_and_not_claimed(
    connection: asyncpg.Connection,
) -> None:
    worker = await add_worker(connection)
    ids = await add_tasks(connection, run_at=datetime.now(UTC) + timedelta(hours=1))
    assert await claim(connection, worker, no_bounds(), 10, start_at_once=True) == []
    assert await statuses(connection, ids) == ["scheduled"]


async def test_each_claim_increments_fence_and_attempt(connection: asyncpg.Connection) -> None:
    worker = await add_worker(connection)
    await add_tasks(connection)
    [first] = await claim(connection, worker, no_bounds(), 1, start_at_once=True)
    again = results.GivenBack(first.task_id, first.fence, Outcome.FAILED, error="no")
    await results.give_back(connection, worker, [again])
    [second] = await claim(connection, worker, no_bounds(), 1, start_at_once=True)
    assert (first.fence, first.attempt, second.fence, second.attempt) == (1, 1, 2, 2)


@pytest.mark.parametrize("state", ["dead", "draining", "unknown"])
async def test_inactive_worker_claims_nothing(connection: asyncpg.Connection, state: str) -> None:
    worker = await add_worker(connection)
    await add_tasks(connection)
    if state == "dead":
        await workers.declare_dead(connection, worker, Reason.CRASH)
    elif state == "draining":
        await workers.drain(connection, worker, Reason.SCALE_DOWN)
    else:
        worker = (await add_tasks(connection))[0]
    assert await claim(connection, worker, no_bounds(), 10, start_at_once=True) == []
    assert await claim_alone(connection, worker, ["default"], 0) is None


async def test_claim_contains_the_payload(connection: asyncpg.Connection) -> None:
    worker = await add_worker(connection)
    await add_tasks(connection, payload={"name": "Ada \N{SNOWMAN}", "n": [1, None]})
    [claimed] = await claim(connection, worker, no_bounds(), 1, start_at_once=True)
    assert claimed.payload == {"name": "Ada \N{SNOWMAN}", "n": [1, None]}


async def test_claim_bound_lags_two_seconds_and_can_be_reset(
    connection: asyncpg.Connection,
) -> None:
    worker, bounds = await add_worker(connection), no_bounds()
    await add_tasks(connection)
    [first] = await claim(connection, worker, bounds, 1, start_at_once=True)
    assert max(bounds.lanes()[2]) == first.run_at - 2
    query = "SELECT run_at FROM queue WHERE task_id = $2 AND run_at = to_timestamp($1)"
    assert await connection.fetchval(query, first.run_at, first.task_id), "exact to the microsecond"
    [late] = await add_tasks(connection)
    await connection.execute(
        "UPDATE queue SET run_at = now() - interval '1 hour' WHERE task_id = $1", late
    )
    assert await claim(connection, worker, bounds, 1, start_at_once=True) == []
    bounds.reset()
    assert [c.task_id for c in await claim(connection, worker, bounds, 1, start_at_once=True)] == [
        late
    ]


async def test_declaring_death_waits_for_a_claim_and_the_release_includes_it(
    database: str, connection: asyncpg.Connection
) -> None:
    """A claim that commits between declaration and release must be released too."""
    worker = await add_worker(connection)
    [task] = await add_tasks(connection)
    other = await asyncpg.connect(database)
    claiming = connection.transaction()
    await claiming.start()
    assert await claim(connection, worker, no_bounds(), 1, start_at_once=True)
    declaring = asyncio.create_task(workers.declare_dead(other, worker, Reason.CRASH))
    watcher = await asyncpg.connect(database)
    while not await watcher.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
        await asyncio.sleep(0)
    assert not declaring.done()
    await claiming.commit()
    assert await declaring
    assert (await workers.release(other, worker, Reason.CRASH)).released == 1
    assert await statuses(connection, [task]) == ["pending"]
    await other.close()
    await watcher.close()


async def test_claim_of_a_worker_being_declared_dead_returns_nothing(
    database: str, connection: asyncpg.Connection
) -> None:
    worker = await add_worker(connection)
    await add_tasks(connection)
    other = await asyncpg.connect(database)
    declaring = connection.transaction()
    await declaring.start()
    await workers.declare_dead(connection, worker, Reason.CRASH)
    claiming = asyncio.create_task(claim(other, worker, no_bounds(), 1, start_at_once=True))
    while not await connection.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
        await asyncio.sleep(0)
    await declaring.commit()
    assert await claiming == []
    await other.close()


async def test_finished_task_leaves_the_queue_and_has_the_status_of_its_run(
    connection: asyncpg.Connection,
) -> None:
    worker = await add_worker(connection)
    ids = await add_tasks(connection, 2)
    first, second = await claim(connection, worker, no_bounds(), 2, start_at_once=True)
    ends = [
        Finished(first.task_id, first.fence, Outcome.COMPLETED, result='{"a": 1}'),
        Finished(second.task_id, second.fence, Outcome.TIMED_OUT, error="too slow"),
    ]
    assert await results.finish(connection, worker, ends) == {
        (first.task_id, 1),
        (second.task_id, 1),
    }
    assert await statuses(connection, ids) == ["completed", "failed"]
    assert await connection.fetchval("SELECT count(*) FROM queue") == 0
