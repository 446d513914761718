"""A worker that lost its claim changes nothing, whatever it reports."""

import asyncpg
import pytest

from task_service.domain.outcomes import Outcome, Reason
from task_service.queue import results, workers
from task_service.queue.claims import Bounds, Claim, claim
from task_service.queue.results import Finished, GivenBack
from tests.support.tasks import add_tasks, add_worker, statuses

pytestmark = pytest.mark.asyncio


async def overtaken(connection: asyncpg.Connection) -> tuple[object, Claim, object, Claim]:
    """A worker that was declared dead while it ran a task, and the one that has the task now."""
    old, new = await add_worker(connection), await add_worker(connection)
    await add_tasks(connection)
    [lost] = await claim(connection, old, Bounds(["default"]), 1, start_at_once=True)
    await workers.declare_dead(connection, old, Reason.UNKNOWN)
    await workers.release(connection, old, Reason.UNKNOWN)
    [held] = await claim(connection, new, Bounds(["default"]), 1, start_at_once=True)
    return old, lost, new, held


async def test_a_lost_claim_cannot_be_completed_given_back_extended_or_held(
    connection: asyncpg.Connection,
) -> None:
    old, lost, _, held = await overtaken(connection)
    attempt = (lost.task_id, lost.fence)
    assert not await results.finish(connection, old, [Finished(*attempt, Outcome.COMPLETED)])  # type: ignore[arg-type]
    assert not await results.give_back(connection, old, [GivenBack(*attempt, Outcome.FAILED)])  # type: ignore[arg-type]
    assert not await results.extend(connection, old, attempt, 60)  # type: ignore[arg-type]
    assert not await results.hold(connection, old, attempt)  # type: ignore[arg-type]
    row = await connection.fetchrow("SELECT fence, state FROM queue")
    assert dict(row) == {"fence": held.fence, "state": "running"}


async def test_the_fence_alone_is_checked_too(connection: asyncpg.Connection) -> None:
    """The same worker has the task again: a result of the earlier attempt must not end the later one."""
    worker = await add_worker(connection)
    await add_tasks(connection)
    [first] = await claim(connection, worker, Bounds(["default"]), 1, start_at_once=True)
    await results.give_back(
        connection, worker, [GivenBack(first.task_id, first.fence, Outcome.TIMED_OUT)]
    )
    [second] = await claim(connection, worker, Bounds(["default"]), 1, start_at_once=True)
    late = Finished(first.task_id, first.fence, Outcome.COMPLETED)
    assert not await results.finish(connection, worker, [late])
    assert not await results.hold(connection, worker, (first.task_id, first.fence))
    assert await results.hold(connection, worker, (second.task_id, second.fence))
    assert await statuses(connection, [second.task_id]) == ["processing"]


async def test_a_worker_that_holds_nothing_cannot_complete_under_a_right_fence(
    connection: asyncpg.Connection,
) -> None:
    _, _, _, held = await overtaken(connection)
    stranger = await add_worker(connection)
    assert not await results.finish(
        connection, stranger, [Finished(held.task_id, held.fence, Outcome.COMPLETED)]
    )


async def test_a_report_sent_twice_is_recognised_as_ours(connection: asyncpg.Connection) -> None:
    worker = await add_worker(connection)
    await add_tasks(connection)
    [c] = await claim(connection, worker, Bounds(["default"]), 1, start_at_once=True)
    end, attempt = Finished(c.task_id, c.fence, Outcome.COMPLETED), (c.task_id, c.fence)
    assert await results.finish(connection, worker, [end]) == {attempt}
    assert await results.finish(connection, worker, [end]) == set()
    assert await results.recorded(connection, worker, [attempt]) == {attempt}


async def test_of_a_batch_those_that_were_not_ours_are_named_and_the_others_end(
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
    assert await results.end(connection, worker, [*ends, stale]) == (
        {(stale.task_id, stale.fence)},
        [third.task_id],
    )
    assert await results.finish(connection, worker, ends) == set()
    ids = [c.task_id for c in (first, second, third, fourth)]
    assert await statuses(connection, ids) == ["completed"] * 3 + ["processing"]


async def test_a_lost_attempt_is_not_taken_for_a_recorded_report(
    connection: asyncpg.Connection,
) -> None:
    old, lost, _, _ = await overtaken(connection)
    assert await results.recorded(connection, old, [(lost.task_id, lost.fence)]) == set()  # type: ignore[arg-type]
