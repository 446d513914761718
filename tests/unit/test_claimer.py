"""When the claim loop looks again and from where, and what it does with tasks that it claimed ahead."""

import asyncio
import math
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest

from task_service.domain.outcomes import Reason
from task_service.queue.claims import BEGINNING, Bounds, Claim
from task_service.queue.results import GivenBack
from task_service.settings import Settings
from task_service.worker.claimer import LOOK_AGAIN_SECONDS, PATIENCE_SECONDS, Claimer

POLL = 1.0
NOW = 1_767_225_600.0


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def claimer() -> Claimer:
    nothing: Any = SimpleNamespace()
    settings = Settings(
        _env_file=None, database_url="postgresql://unused/unused", poll_seconds=POLL
    )  # type: ignore[call-arg]
    made = Claimer(settings, nothing, nothing, nothing, nothing)
    made._clock = Clock()
    return made


def pass_time(claimer: Claimer, seconds: float) -> None:
    assert isinstance(claimer._clock, Clock)
    claimer._clock.now += seconds


def claim_at(run_at: float) -> Claim:
    return Claim(
        UUID(int=2),
        1,
        1,
        5,
        None,
        "noop",
        "default",
        2,
        run_at,
        0.0,
        False,
        False,
        None,
        False,
        None,
    )


def rest_after(claimer: Claimer, seconds: float, *, found: bool) -> float:
    pass_time(claimer, seconds)
    return claimer._rest(found=found)


async def test_a_task_now_and_then_is_waited_for_until_its_notification(claimer: Claimer) -> None:
    for _ in range(3):
        assert rest_after(claimer, 0.5, found=True) == POLL
        assert rest_after(claimer, 0.001, found=False) == POLL


async def test_where_tasks_come_fast_it_looks_again_while_notifications_may_be_held_back(
    claimer: Claimer,
) -> None:
    assert rest_after(claimer, 0.5, found=True) == POLL
    assert rest_after(claimer, 0.02, found=True) == LOOK_AGAIN_SECONDS
    assert rest_after(claimer, 0.01, found=False) == LOOK_AGAIN_SECONDS
    assert rest_after(claimer, 0.005, found=False) == LOOK_AGAIN_SECONDS
    assert rest_after(claimer, 0.01, found=False) == POLL
    assert rest_after(claimer, 0.01, found=True) == LOOK_AGAIN_SECONDS


class Claims:
    """Stands for the queue (time passes by hand here): each claim takes so long and brings so many."""

    def __init__(self, claimer: Claimer, monkeypatch: pytest.MonkeyPatch) -> None:
        self.took, self.brings, self.behind, self.since = 0.0, 0, False, [BEGINNING]
        self._claimer = claimer
        monkeypatch.setattr("task_service.worker.claimer.claim_in_turn", self._claim)
        stand_in: Any = claimer
        stand_in.membership = SimpleNamespace(worker_id=UUID(int=1))
        stand_in._acquire = nullcontext

    async def _claim(
        self, _connection: Any, _worker: UUID, bounds: Bounds, limit: int, _turn: int, **how: bool
    ) -> list[Claim]:
        self.behind, self.since = how["behind"], bounds.lines(behind=False)[2]
        claims = [claim_at(NOW)] * min(self.brings, limit)
        bounds.advance(claims)
        pass_time(self._claimer, self.took)
        return claims

    async def look(self, after: float = 0.01) -> str:
        """Claim once more after so many seconds, and say from where it looked."""
        pass_time(self._claimer, after)
        self._claimer._more = bool(self.brings)
        await self._claimer._claim(10, start_at_once=True)
        if all(since == BEGINNING for since in self.since):
            return "everywhere"
        return "behind" if self.behind else "on"


async def test_a_claim_among_many_looks_on_from_the_last_one_and_behind_it_now_and_then(
    claimer: Claimer, monkeypatch: pytest.MonkeyPatch
) -> None:
    claims = Claims(claimer, monkeypatch)
    claims.brings = 10
    assert [await claims.look() for _ in range(4)] == ["everywhere", "on", "on", "on"]
    assert [await claims.look(0.3), await claims.look()] == ["behind", "on"]
    assert [await claims.look(6), await claims.look()] == ["everywhere", "on"]
    claims.brings = 0
    assert await claims.look() == "behind", (
        "when there seems to be no more, what committed late may be there"
    )


async def test_a_claim_that_takes_long_where_it_looks_behind_does_so_less_often(
    claimer: Claimer, monkeypatch: pytest.MonkeyPatch
) -> None:
    claims = Claims(claimer, monkeypatch)
    claims.brings, claims.took = 10, 1.0
    assert [await claims.look(), await claims.look(4)] == ["everywhere", "on"]
    claims.took = 0.0
    assert [await claims.look(5), await claims.look(12)] == ["behind", "everywhere"], (
        "20 s after it took one"
    )
    claims.took = 10.0
    assert await claims.look(6) == "everywhere"
    claims.took = 0.0
    assert [await claims.look(59) == "everywhere", await claims.look(2)] == [False, "everywhere"], (
        "at most a minute"
    )


async def test_what_was_claimed_ahead_is_given_back_when_handlers_stay_slow_not_for_one_hiccup(
    claimer: Claimer,
) -> None:
    async def at_once() -> None: ...

    given: list[GivenBack] = []
    stand_in: Any = claimer
    stand_in.runner = SimpleNamespace(
        running=[SimpleNamespace(claim=claim_at(NOW))] * claimer.settings.worker_concurrency, ahead=lambda _: 0,
        until_slot_free=at_once,
    )  # fmt: skip
    stand_in.membership = SimpleNamespace(worker_id=UUID(int=1), may_start=lambda: True)
    stand_in.reports = SimpleNamespace(add=lambda _worker, _claim, end: given.append(end))
    claimer._look_for_strays_at = math.inf
    claimer._waiting.append((UUID(int=1), claim_at(NOW)))
    claimer._claimed_at = claimer._clock()
    pass_time(claimer, PATIENCE_SECONDS / 2)
    await claimer._once()
    assert not given
    pass_time(claimer, PATIENCE_SECONDS)
    await claimer._once()
    assert [(end.reason, end.counts) for end in given] == [(Reason.DRAIN, False)]


async def test_what_one_claim_brought_starts_while_the_next_one_is_under_way(
    claimer: Claimer, monkeypatch: pytest.MonkeyPatch
) -> None:
    happened: list[str] = []
    started = asyncio.Event()

    async def slow_claim(*_: Any, **__: Any) -> list[Claim]:
        happened.append("claim sent")
        await asyncio.wait_for(started.wait(), 5)
        happened.append("claim answered")
        return []

    def start(*_: Any) -> None:
        happened.append("started")
        started.set()

    async def nobody(**_: Any) -> bool:
        return False

    monkeypatch.setattr("task_service.worker.claimer.claim_in_turn", slow_claim)
    stand_in: Any = claimer
    stand_in._acquire = nullcontext
    stand_in.runner = SimpleNamespace(running={}, ahead=lambda _: 100, start=start)
    stand_in.membership = SimpleNamespace(worker_id=UUID(int=1), may_start=lambda: True)
    claimer._look_for_strays_at = claimer._look_for_alone_at = math.inf
    claimer._waiting.extend([(UUID(int=1), claim_at(NOW))] * 2)
    stand_in._look_for_alone = nobody
    await claimer._once()
    assert happened == ["claim sent", "started", "started", "claim answered"]
