"""Reports of a worker that lost its claim have no effect."""

from uuid import UUID

import asyncpg
import pytest

from task_service.domain.outcomes import Outcome, Reason
from task_service.queue import results, workers
from task_service.queue.claims import Bounds, Claim, claim
from task_service.queue.results import Finished, GivenBack
from tests.support.tasks import add_tasks, add_worker, statuses

pytestmark = pytest.mark.asyncio


async def overtaken(connection: asyncpg.Connection) -> tuple[UUID, Claim, UUID, Claim]:
    """Return a worker that lost a claim and its claim, and the new worker and its claim."""
    old, new = await add_worker(connection), await add_worker(connection)
    await add_tasks(connection)
    [lost] = await claim(connection, old, Bounds(["default"]), 1, start_at_once=True)
    await workers.declare_dead(connection, old, Reason.UNKNOWN)
    await workers.release(connection, old, Reason.UNKNOWN)
    [held] = await claim(connection, new, Bounds(["default"]), 1, start_at_once=True)
    return old, lost, new, held


async def test_lost_claim_cannot_be_completed_released_extended_or_locked(
    connection: asyncpg.Connection,
) -> None:
    old, lost, _, held = await overtaken(connection)
    attempt = (lost.task_id, lost.fence)
    assert not await results.finish(connection, old, [Finished(*attempt, Outcome.COMPLETED)])
    assert not await results.give_back(connection, old, [GivenBack(*attempt, Outcome.FAILED)])
    assert not await results.extend_deadline(connection, old, attempt, 60)
    assert not await results.lock_attempt(connection, old, attempt)
    [row] = await connection.fetch("SELECT fence, state FROM queue")
    assert dict(row) == {"fence": held.fence, "state": "running"}


async def test_fence_of_an_earlier_attempt_is_rejected(connection: asyncpg.Connection) -> None:
    """A result of an earlier attempt must not end a later attempt of the same worker."""
    worker = await add_worker(connection)
    await add_tasks(connection)
    [first] = await claim(connection, worker, Bounds(["default"]), 1, start_at_once=True)
    await results.give_back(
        connection, worker, [GivenBack(first.task_id, first.fence, Outcome.TIMED_OUT)]
    )
    [second] = await claim(connection, worker, Bounds(["default"]), 1, start_at_once=True)
    late = Finished(first.task_id, first.fence, Outcome.COMPLETED)
    assert not await results.finish(connection, worker, [late])
    assert not await results.lock_attempt(connection, worker, (first.task_id, first.fence))
    assert await results.lock_attempt(connection, worker, (second.task_id, second.fence))
    assert await statuses(connection, [second.task_id]) == ["processing"]


async def test_worker_without_a_claim_cannot_complete_with_the_correct_fence(
    connection: asyncpg.Connection,
) -> None:
    _, _, _, held = await overtaken(connection)
    other = await add_worker(connection)
    assert not await results.finish(
        connection, other, [Finished(held.task_id, held.fence, Outcome.COMPLETED)]
    )


async def test_repeated_report_is_recognized(connection: asyncpg.Connection) -> None:
    worker = await add_worker(connection)
    await add_tasks(connection)
    [c] = await claim(connection, worker, Bounds(["default"]), 1, start_at_once=True)
    end, attempt = Finished(c.task_id, c.fence, Outcome.COMPLETED), (c.task_id, c.fence)
    assert await results.finish(connection, worker, [end]) == {attempt}
    assert await results.finish(connection, worker, [end]) == set()
    assert await results.list_recorded_attempts(connection, worker, [attempt]) == {attempt}


async def test_batch_ends_valid_claims_and_returns_the_stale_ones(
    connection: asyncpg.Connection,
) -> None:
    worker = await add_worker(connection)
    await add_tasks(connection, 4)
    first, second, third, fourth = await claim(
        connection, worker, Bounds(["default"]), 4, start_at_once=True
    )
    await connection.execute("UPDATE queue SET awaited = true WHERE task_id = $1", third.task_id)
    ends = [Finished(c.task_id, c.fence, Outcome.COMPLETED) for c in (first, second, third)]
    stale = Finished(fourth.task_id, fourth.fence - 1, Outcome.COMPLETED)
    assert await results.finish_batch(connection, worker, [*ends, stale]) == (
        {(stale.task_id, stale.fence)},
        [third.task_id],
    )
    assert await results.finish(connection, worker, ends) == set()
    ids = [c.task_id for c in (first, second, third, fourth)]
    assert await statuses(connection, ids) == ["completed"] * 3 + ["processing"]


async def test_lost_attempt_is_not_a_recorded_report(
    connection: asyncpg.Connection,
) -> None:
    old, lost, _, _ = await overtaken(connection)
    assert (
        await results.list_recorded_attempts(connection, old, [(lost.task_id, lost.fence)]) == set()
    )
