"""Mutation tests: without any of its protections, the queue fails the model or a forced race.

Each mutation changes one clause of one statement. Where only two concurrent statements can fail,
the test forces the race, which must succeed with the protection.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg
import pytest

from task_service.domain.outcomes import Outcome, Reason
from task_service.queue import claims, entries, results, statements, workers
from task_service.queue.claims import Bounds, Claim, claim, claim_alone
from task_service.queue.results import Finished, GivenBack
from task_service.store import tasks as store
from tests.support.invariants import check_invariants
from tests.support.queue_model.machine import play
from tests.support.queue_model.real_queue import RealQueue
from tests.support.tasks import add_tasks, add_worker, statuses
from tests.support.waiting import eventually

ROUNDS = 8
"""Number of rounds of histories in which the model must detect a mutation."""


class Protection(NamedTuple):
    """A clause of a statement that protects an invariant, and the text that replaces it."""

    name: str
    statement: str
    clause: str
    replacement: str = ""


ANY_WORKER = "$1::uuid IS NOT NULL"
ANY_FENCE = "$3::bigint IS NOT NULL"
DETECTED_BY_MODEL = [
    Protection("finish checks the fence", "finish", " AND q.fence = i.fence"),
    Protection(
        "finish checks the worker", "finish", "q.worker_id IS NOT DISTINCT FROM $1", ANY_WORKER
    ),
    Protection("give_back checks the fence", "give_back", " AND q.fence = i.fence"),
    Protection(
        "give_back checks the worker",
        "give_back",
        "q.worker_id IS NOT DISTINCT FROM $1",
        ANY_WORKER,
    ),
    Protection("transaction checks the fence", "lock_attempt", "fence = $3", ANY_FENCE),
    Protection(
        "transaction checks the worker",
        "lock_attempt",
        "worker_id IS NOT DISTINCT FROM $2",
        "$2::uuid IS NOT NULL",
    ),
    Protection("transaction locks the task", "lock_attempt", " FOR UPDATE"),
    Protection("extend checks the fence", "extend_deadline", "fence = $3", ANY_FENCE),
    Protection(
        "extend checks the worker",
        "extend_deadline",
        "worker_id IS NOT DISTINCT FROM $2",
        "$2::uuid IS NOT NULL",
    ),
    Protection(
        "recorded checks the worker",
        "list_recorded_attempts",
        "runs.worker_id IS NOT DISTINCT FROM $1",
        ANY_WORKER,
    ),
    Protection(
        "recorded excludes lost attempts",
        "list_recorded_attempts",
        "runs.outcome <> 'lost'",
        "true",
    ),
    Protection("claim requires an active worker", "claim", " AND state = 'active'"),
    Protection("claim_alone requires an active worker", "claim_alone", " AND state = 'active'"),
    Protection("claim skips locked rows", "claim", " SKIP LOCKED"),
    Protection("claim increments the fence", "claim", "fence = q.fence + 1, "),
    Protection("claim increments the attempt", "claim", "attempt = q.attempt + 1, "),
    Protection("claim skips paused queues", "claim", "SELECT name FROM paused_queues", "SELECT ''"),
    Protection("heartbeat does not revive a dead worker", "heartbeat", " AND state <> 'dead'"),
    Protection("death reason is not replaced", "declare_dead", " AND state <> 'dead'"),
    Protection(
        "release requires a dead worker", "release", "w.id = $1 AND w.state <> 'dead'", "false"
    ),
    Protection("release skips locked rows", "release", " SKIP LOCKED"),
    Protection(
        "release counts attempts by reason",
        "release",
        "q.started AND $3 AS counts",
        "q.started AS counts",
    ),
    Protection("give_back counts attempts on request", "give_back", "WHEN h.counts", "WHEN true"),
    Protection(
        "release ends a task without attempts",
        "release",
        "$3 AND q.attempt >= q.max_attempts",
        "$3 AND false",
    ),
    Protection(
        "sweep finds dead workers",
        "list_unreleased_workers",
        "state = 'dead' AND released_at IS NULL",
        "false",
    ),
    Protection(
        "released workers hold no task",
        "mark_worker_released",
        "SELECT FROM queue WHERE",
        "SELECT FROM queue WHERE false AND",
    ),
    Protection(
        "unreleased workers are not pruned", "prune_workers", " AND released_at IS NOT NULL"
    ),
    Protection(
        "finish records a final run", "finish", "reason, true, hidden", "reason, false, hidden"
    ),
    Protection(
        "finish removes the queue row",
        "finish",
        "(SELECT task_id FROM held)",
        "(SELECT task_id FROM held WHERE false)",
    ),
    Protection(
        "give_back records a run that is not final",
        "give_back",
        "reason, false, hidden",
        "reason, true, hidden",
    ),
    Protection(
        "release records a final run only at the end",
        "release",
        "verdict IS NOT NULL, hidden",
        "true, hidden",
    ),
    Protection("withdraw skips running tasks", "withdraw_task", " AND state <> 'running'"),
    Protection("update skips running tasks", "update_task", " AND state <> 'running'"),
]


@pytest.fixture
def remove_protection(monkeypatch: pytest.MonkeyPatch) -> Callable[[Protection], None]:
    """Return a function that removes a protection until the test ends."""

    def remove(protection: Protection) -> None:
        text = statements.statement(protection.statement)
        assert text.count(protection.clause) == 1, (
            f"{protection.statement}.sql has no clause {protection.clause!r}: update the mutation"
        )
        changed = text.replace(protection.clause, protection.replacement)

        def statement(name: str) -> str:
            return changed if name == protection.statement else statements.statement(name)

        for module in (claims, entries, results, workers):
            monkeypatch.setattr(module, "statement", statement)

    return remove


def play_histories(real_queue: RealQueue) -> None:
    for number in range(ROUNDS):
        play(real_queue, number, shrink=False)


@pytest.mark.parametrize("protection", DETECTED_BY_MODEL, ids=lambda protection: protection.name)
def test_model_detects_a_missing_protection(
    real_queue: RealQueue, remove_protection: Callable[[Protection], None], protection: Protection
) -> None:
    remove_protection(protection)
    with pytest.raises(AssertionError):
        play_histories(real_queue)


def test_model_detects_a_final_run_of_a_reopened_task(
    real_queue: RealQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def forget(*_: object) -> None:
        """Leave the final run final."""

    monkeypatch.setattr(store, "reopen_runs", forget)
    with pytest.raises(AssertionError):
        play_histories(real_queue)


class Race:
    """Connections for two concurrent statements, and one that observes them."""

    def __init__(
        self, first: asyncpg.Connection, second: asyncpg.Connection, observer: asyncpg.Connection
    ) -> None:
        self.first, self.second, self.observer = first, second, observer

    async def settle(self, task: "asyncio.Task[Any]") -> bool:
        """Wait until the task is done or waits for a lock; return whether it is done."""

        async def is_settled() -> bool:
            return task.done() or bool(
                await self.observer.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted")
            )

        await eventually("the end of the task or a wait for a lock", is_settled)
        return task.done()

    async def sweep(self) -> None:
        """Release the tasks of dead and unregistered workers."""
        for worker, reason in await workers.list_unreleased(self.observer, orphans=True):
            await workers.release(self.observer, worker, reason)

    async def check_pending(self, task: UUID) -> None:
        """Check that the task waits for its next attempt and that the invariants hold."""
        assert await statuses(self.observer, [task]) == ["pending"]
        await check_invariants(self.observer)


async def claim_one(connection: asyncpg.Connection, worker: UUID) -> list[Claim]:
    return await claim(connection, worker, Bounds(["default"]), 1, start_at_once=True)


async def claim_one_alone(connection: asyncpg.Connection, worker: UUID) -> list[Claim]:
    await connection.execute("UPDATE queue SET alone = true WHERE state = 'ready'")
    claimed = await claim_alone(connection, worker, ["default"], 0)
    return [claimed] if claimed else []


async def declare_dead_during(
    race: Race, start_claim: Callable[[asyncpg.Connection, UUID], Awaitable[list[Claim]]]
) -> None:
    """Declare a worker dead and release it during its claim: the task must not stay with it."""
    worker = await add_worker(race.observer)
    [task] = await add_tasks(race.observer)
    claiming = race.first.transaction()
    await claiming.start()
    assert await start_claim(race.first, worker)
    declaring = asyncio.create_task(workers.declare_dead(race.second, worker, Reason.CRASH))
    if await race.settle(declaring):
        await workers.release(race.second, worker, Reason.CRASH)
    await claiming.commit()
    await declaring
    await race.sweep()
    await race.check_pending(task)


async def death_during_claim(race: Race) -> None:
    await declare_dead_during(race, claim_one)


async def death_during_claim_alone(race: Race) -> None:
    await declare_dead_during(race, claim_one_alone)


async def concurrent_claims(race: Race) -> None:
    """Claim with two workers concurrently: only one of them gets the task."""
    first, second = await add_worker(race.observer), await add_worker(race.observer)
    await add_tasks(race.observer)
    claiming = race.first.transaction()
    await claiming.start()
    assert await claim_one(race.first, first)
    second_claim = asyncio.create_task(claim_one(race.second, second))
    await race.settle(second_claim)
    await claiming.commit()
    assert await second_claim == []


async def report_during_release(
    race: Race, report: Callable[[asyncpg.Connection, UUID, Claim], Awaitable[set[results.Attempt]]]
) -> None:
    """Report during the release of the claim: the worker must learn that the claim is lost."""
    worker = await add_worker(race.observer)
    [task] = await add_tasks(race.observer)
    [held] = await claim_one(race.observer, worker)
    await workers.declare_dead(race.observer, worker, Reason.CRASH)
    releasing = race.first.transaction()
    await releasing.start()
    assert await workers.release(race.first, worker, Reason.CRASH) == workers.Release(1, 0)
    reporting = asyncio.ensure_future(report(race.second, worker, held))
    await race.settle(reporting)
    await releasing.commit()
    try:
        assert await reporting == set()
    except asyncpg.UniqueViolationError as error:
        raise AssertionError("the attempt was recorded twice") from error
    await race.check_pending(task)


async def finish_during_release(race: Race) -> None:
    async def end(
        connection: asyncpg.Connection, worker: UUID, held: Claim
    ) -> set[results.Attempt]:
        return await results.finish(
            connection, worker, [Finished(held.task_id, held.fence, Outcome.COMPLETED)]
        )

    await report_during_release(race, end)


async def give_back_during_release(race: Race) -> None:
    async def give_back(
        connection: asyncpg.Connection, worker: UUID, held: Claim
    ) -> set[results.Attempt]:
        return await results.give_back(
            connection, worker, [GivenBack(held.task_id, held.fence, Outcome.FAILED)]
        )

    await report_during_release(race, give_back)


async def worker_without_a_row(race: Race) -> None:
    """Delete a worker's row, as a restored backup does: its tasks must not stay with it."""
    worker = await add_worker(race.observer)
    [task] = await add_tasks(race.observer)
    assert await claim_one(race.first, worker)
    await race.observer.execute("DELETE FROM workers WHERE id = $1", worker)
    await race.sweep()
    await race.check_pending(task)


DETECTED_BY_RACE = [
    (death_during_claim, Protection("claim locks its worker", "claim", " FOR KEY SHARE")),
    (
        death_during_claim_alone,
        Protection("claim_alone locks its worker", "claim_alone", " FOR KEY SHARE"),
    ),
    (
        death_during_claim,
        Protection("declare_dead waits for a claim", "declare_dead", "'dead' FOR UPDATE", "'dead'"),
    ),
    (concurrent_claims, Protection("claim locks the tasks", "claim", "FOR UPDATE SKIP LOCKED")),
    (finish_during_release, Protection("finish locks the task first", "finish", "FOR UPDATE")),
    (
        give_back_during_release,
        Protection("give_back locks the task first", "give_back", "FOR UPDATE"),
    ),
    (
        worker_without_a_row,
        Protection(
            "sweep finds tasks of unregistered workers",
            "list_unreleased_workers",
            "$1 AND",
            "$1 AND false AND",
        ),
    ),
]


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("run", "protection"),
    DETECTED_BY_RACE,
    ids=[protection.name for _, protection in DETECTED_BY_RACE],
)
async def test_race_succeeds_only_with_the_protection(
    database: str,
    remove_protection: Callable[[Protection], None],
    run: Callable[[Race], Awaitable[None]],
    protection: Protection,
) -> None:
    connections = [await asyncpg.connect(database) for _ in range(3)]
    race = Race(*connections)
    await run(race)
    await race.observer.execute("DELETE FROM queue; DELETE FROM tasks")
    remove_protection(protection)
    with pytest.raises(AssertionError):
        await run(race)
    for connection in connections:
        await connection.close()
