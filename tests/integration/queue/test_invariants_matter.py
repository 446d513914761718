"""Each protection of the queue matters: without it, the model finds a history that goes wrong, or a race does.

A protection is taken away by changing one place of one statement. Where only two statements that are under way at once
can go wrong, the race is forced, and must end well with the protection.
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
from task_service.services.tasks import store
from tests.support.invariants import check_invariants
from tests.support.queue_model.machine import play
from tests.support.queue_model.stage import Stage
from tests.support.tasks import add_tasks, add_worker, statuses
from tests.support.waiting import eventually

ROUNDS = 8
"""In how many rounds of histories the model must find out."""


class Protection(NamedTuple):
    """What protects, in which statement, by which words; and what stands there without it."""

    what: str
    statement: str
    words: str
    instead: str = ""


ANYBODY = "$1::uuid IS NOT NULL"
WHATEVER = "$3::bigint IS NOT NULL"
FOUND_BY_MODEL = [
    Protection("an end needs its fence", "finish", " AND q.fence = i.fence"),
    Protection("an end needs its worker", "finish", "q.worker_id IS NOT DISTINCT FROM $1", ANYBODY),
    Protection("a return needs its fence", "give_back", " AND q.fence = i.fence"),
    Protection(
        "a return needs its worker", "give_back", "q.worker_id IS NOT DISTINCT FROM $1", ANYBODY
    ),
    Protection("a transaction needs its fence", "hold", "fence = $3", WHATEVER),
    Protection(
        "a transaction needs its worker",
        "hold",
        "worker_id IS NOT DISTINCT FROM $2",
        "$2::uuid IS NOT NULL",
    ),
    Protection("a transaction holds the task", "hold", " FOR UPDATE"),
    Protection("more time needs the fence", "extend", "fence = $3", WHATEVER),
    Protection(
        "more time needs the worker",
        "extend",
        "worker_id IS NOT DISTINCT FROM $2",
        "$2::uuid IS NOT NULL",
    ),
    Protection(
        "what another reported is not ours",
        "recorded",
        "runs.worker_id IS NOT DISTINCT FROM $1",
        ANYBODY,
    ),
    Protection("what was lost is not reported", "recorded", "runs.outcome <> 'lost'", "true"),
    Protection("who claims is active", "claim", " AND state = 'active'"),
    Protection("who claims one alone is active", "claim_alone", " AND state = 'active'"),
    Protection("a claim skips what is locked", "claim", " SKIP LOCKED"),
    Protection("a claim raises the fence", "claim", "fence = q.fence + 1, "),
    Protection("a claim counts as an attempt", "claim", "attempt = q.attempt + 1, "),
    Protection(
        "nobody claims from a paused queue", "claim", "SELECT name FROM paused_queues", "SELECT ''"
    ),
    Protection("dead is final", "heartbeat", " AND state <> 'dead'"),
    Protection("a death has one reason", "declare_dead", " AND state <> 'dead'"),
    Protection(
        "the living keep what they hold", "release", "w.id = $1 AND w.state <> 'dead'", "false"
    ),
    Protection("a release skips what is locked", "release", " SKIP LOCKED"),
    Protection(
        "the reason decides what counts",
        "release",
        "q.started AND $3 AS counts",
        "q.started AS counts",
    ),
    Protection("who gives back decides what counts", "give_back", "WHEN h.counts", "WHEN true"),
    Protection(
        "attempts come to an end", "release", "$3 AND q.attempt >= q.max_attempts", "$3 AND false"
    ),
    Protection(
        "the sweep finds the dead", "unreleased", "state = 'dead' AND released_at IS NULL", "false"
    ),
    Protection(
        "released is who holds nothing",
        "released",
        "SELECT FROM queue WHERE",
        "SELECT FROM queue WHERE false AND",
    ),
    Protection("who may hold something is kept", "prune_workers", " AND released_at IS NOT NULL"),
    Protection("an end is final", "finish", "reason, true, hidden", "reason, false, hidden"),
    Protection(
        "an end leaves the queue",
        "finish",
        "(SELECT task_id FROM held)",
        "(SELECT task_id FROM held WHERE false)",
    ),
    Protection(
        "a return is not final", "give_back", "reason, false, hidden", "reason, true, hidden"
    ),
    Protection("a loss may not be final", "release", "verdict IS NOT NULL, hidden", "true, hidden"),
    Protection("what is held cannot be withdrawn", "withdraw", " AND state <> 'running'"),
    Protection("what is held cannot be changed", "update", " AND state <> 'running'"),
]


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Callable[[Protection], None]:
    """A function that takes a protection away until the test ends."""

    def take(protection: Protection) -> None:
        text = statements.statement(protection.statement)
        assert text.count(protection.words) == 1, (
            f"{protection.statement}.sql has changed: which words protect now?"
        )
        changed = text.replace(protection.words, protection.instead)

        def statement(name: str) -> str:
            return changed if name == protection.statement else statements.statement(name)

        for module in (claims, entries, results, workers):
            monkeypatch.setattr(module, "statement", statement)

    return take


def find_out(stage: Stage) -> None:
    for number in range(ROUNDS):
        play(stage, number, shrink=False)


@pytest.mark.parametrize("protection", FOUND_BY_MODEL, ids=lambda protection: protection.what)
def test_the_model_finds_out_that_a_protection_is_missing(
    stage: Stage, without: Callable[[Protection], None], protection: Protection
) -> None:
    without(protection)
    with pytest.raises(AssertionError):
        find_out(stage)


def test_the_model_finds_out_that_a_run_still_decides_over_a_task_that_was_opened_again(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def forget(*_: object) -> None:
        """The final run stays final."""

    monkeypatch.setattr(store, "reopen_runs", forget)
    with pytest.raises(AssertionError):
        find_out(stage)


class Race:
    """Three connections: for who comes first, for who comes meanwhile, and to look at both."""

    def __init__(
        self, first: asyncpg.Connection, second: asyncpg.Connection, watcher: asyncpg.Connection
    ) -> None:
        self.first, self.second, self.watcher = first, second, watcher

    async def settled(self, doing: "asyncio.Task[Any]") -> bool:
        """Wait until it is done, or waits for a lock; tell whether it is done."""

        async def still() -> bool:
            return doing.done() or bool(
                await self.watcher.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted")
            )

        await eventually("an end, or a lock that is waited for", still)
        return doing.done()

    async def sweep(self) -> None:
        """Release what the dead and the unknown hold."""
        for worker, reason in await workers.unreleased(self.watcher, strangers=True):
            await workers.release(self.watcher, worker, reason)

    async def is_pending(self, task: UUID) -> None:
        """Assert that the task waits for its next attempt, and that all is well."""
        assert await statuses(self.watcher, [task]) == ["pending"]
        await check_invariants(self.watcher)


async def claim_one(connection: asyncpg.Connection, worker: UUID) -> list[Claim]:
    return await claim(connection, worker, Bounds(["default"]), 1, start_at_once=True)


async def claim_one_alone(connection: asyncpg.Connection, worker: UUID) -> list[Claim]:
    await connection.execute("UPDATE queue SET alone = true WHERE state = 'ready'")
    found = await claim_alone(connection, worker, ["default"], 0)
    return [found] if found else []


async def death_during(
    race: Race, claims: Callable[[asyncpg.Connection, UUID], Awaitable[list[Claim]]]
) -> None:
    """A worker is declared dead, and released, while its claim is under way: the task does not stay with it."""
    worker = await add_worker(race.watcher)
    [task] = await add_tasks(race.watcher)
    claiming = race.first.transaction()
    await claiming.start()
    assert await claims(race.first, worker)
    declaring = asyncio.create_task(workers.declare_dead(race.second, worker, Reason.CRASH))
    if await race.settled(declaring):
        await workers.release(race.second, worker, Reason.CRASH)
    await claiming.commit()
    await declaring
    await race.sweep()
    await race.is_pending(task)


async def a_death_during_a_claim(race: Race) -> None:
    await death_during(race, claim_one)


async def a_death_during_a_claim_alone(race: Race) -> None:
    await death_during(race, claim_one_alone)


async def two_claims(race: Race) -> None:
    """Two workers claim at once: one of them gets the task."""
    first, second = await add_worker(race.watcher), await add_worker(race.watcher)
    await add_tasks(race.watcher)
    claiming = race.first.transaction()
    await claiming.start()
    assert await claim_one(race.first, first)
    meanwhile = asyncio.create_task(claim_one(race.second, second))
    await race.settled(meanwhile)
    await claiming.commit()
    assert await meanwhile == []


async def report_during_release(
    race: Race, report: Callable[[asyncpg.Connection, UUID, Claim], Awaitable[set[results.Attempt]]]
) -> None:
    """A worker reports while what it held is released: it is told that the claim is lost, and the task waits."""
    worker = await add_worker(race.watcher)
    [task] = await add_tasks(race.watcher)
    [held] = await claim_one(race.watcher, worker)
    await workers.declare_dead(race.watcher, worker, Reason.CRASH)
    releasing = race.first.transaction()
    await releasing.start()
    assert await workers.release(race.first, worker, Reason.CRASH) == workers.Release(1, 0)
    reporting = asyncio.create_task(report(race.second, worker, held))
    await race.settled(reporting)
    await releasing.commit()
    try:
        assert await reporting == set()
    except asyncpg.UniqueViolationError as error:
        raise AssertionError("the attempt was to be recorded twice") from error
    await race.is_pending(task)


async def an_end_during_a_release(race: Race) -> None:
    async def end(
        connection: asyncpg.Connection, worker: UUID, held: Claim
    ) -> set[results.Attempt]:
        return await results.finish(
            connection, worker, [Finished(held.task_id, held.fence, Outcome.COMPLETED)]
        )

    await report_during_release(race, end)


async def a_return_during_a_release(race: Race) -> None:
    async def give_back(
        connection: asyncpg.Connection, worker: UUID, held: Claim
    ) -> set[results.Attempt]:
        return await results.give_back(
            connection, worker, [GivenBack(held.task_id, held.fence, Outcome.FAILED)]
        )

    await report_during_release(race, give_back)


async def a_worker_without_a_row(race: Race) -> None:
    """A worker's row has gone, by a restored backup or by hand: its tasks do not stay with it."""
    worker = await add_worker(race.watcher)
    [task] = await add_tasks(race.watcher)
    assert await claim_one(race.first, worker)
    await race.watcher.execute("DELETE FROM workers WHERE id = $1", worker)
    await race.sweep()
    await race.is_pending(task)


FOUND_BY_RACE = [
    (a_death_during_a_claim, Protection("a claim holds its worker", "claim", " FOR KEY SHARE")),
    (
        a_death_during_a_claim_alone,
        Protection("a claim alone holds its worker", "claim_alone", " FOR KEY SHARE"),
    ),
    (
        a_death_during_a_claim,
        Protection("a death waits for a claim", "declare_dead", "'dead' FOR UPDATE", "'dead'"),
    ),
    (two_claims, Protection("a claim locks what it takes", "claim", "FOR UPDATE SKIP LOCKED")),
    (an_end_during_a_release, Protection("an end locks the task first", "finish", "FOR UPDATE")),
    (
        a_return_during_a_release,
        Protection("a return locks the task first", "give_back", "FOR UPDATE"),
    ),
    (
        a_worker_without_a_row,
        Protection("the sweep finds strangers", "unreleased", "$1 AND", "$1 AND false AND"),
    ),
]


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("run", "protection"), FOUND_BY_RACE, ids=[protection.what for _, protection in FOUND_BY_RACE]
)
async def test_a_race_ends_well_with_the_protection_and_wrong_without_it(
    database: str,
    without: Callable[[Protection], None],
    run: Callable[[Race], Awaitable[None]],
    protection: Protection,
) -> None:
    connections = [await asyncpg.connect(database) for _ in range(3)]
    race = Race(*connections)
    await run(race)
    await race.watcher.execute("DELETE FROM queue; DELETE FROM tasks")
    without(protection)
    with pytest.raises(AssertionError):
        await run(race)
    for connection in connections:
        await connection.close()
