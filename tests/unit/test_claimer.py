"""Timing of the claim loop, the position of its next claim, and tasks that it prefetched."""

import asyncio
import math
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest

from task_service.domain.outcomes import Reason
from task_service.queue.claims import EARLIEST, Bounds, Claim
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
    unused: Any = SimpleNamespace()
    settings = Settings(
        _env_file=None, database_url="postgresql://unused/unused", poll_seconds=POLL
    )  # type: ignore[call-arg]
    claimer = Claimer(settings, unused, unused, unused, unused)
    claimer._clock = Clock()
    return claimer


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


async def test_claimer_waits_for_a_notification_when_tasks_are_rare(claimer: Claimer) -> None:
    for _ in range(3):
        assert rest_after(claimer, 0.5, found=True) == POLL
        assert rest_after(claimer, 0.001, found=False) == POLL


async def test_claimer_polls_while_tasks_arrive_fast(
    claimer: Claimer,
) -> None:
    assert rest_after(claimer, 0.5, found=True) == POLL
    assert rest_after(claimer, 0.02, found=True) == LOOK_AGAIN_SECONDS
    assert rest_after(claimer, 0.01, found=False) == LOOK_AGAIN_SECONDS
    assert rest_after(claimer, 0.005, found=False) == LOOK_AGAIN_SECONDS
    assert rest_after(claimer, 0.01, found=False) == POLL
    assert rest_after(claimer, 0.01, found=True) == LOOK_AGAIN_SECONDS


class Claims:
    """Fake queue: a claim takes `duration` seconds of the fake clock and returns `count` tasks."""

    def __init__(self, claimer: Claimer, monkeypatch: pytest.MonkeyPatch) -> None:
        self.duration, self.count = 0.0, 0
        self.behind, self.since = False, [EARLIEST]
        self._claimer = claimer
        monkeypatch.setattr("task_service.worker.claimer.claim_in_slot", self._claim)
        fake: Any = claimer
        fake.membership = SimpleNamespace(worker_id=UUID(int=1))
        fake._acquire = nullcontext

    async def _claim(
        self, _connection: Any, _worker: UUID, bounds: Bounds, limit: int, _slot: int, **how: bool
    ) -> list[Claim]:
        self.behind, self.since = how["look_back"], bounds.lanes(look_back=False)[2]
        claims = [claim_at(NOW)] * min(self.count, limit)
        bounds.advance(claims)
        pass_time(self._claimer, self.duration)
        return claims

    async def look(self, after: float = 0.01) -> str:
        """Claim again after this many seconds and return where the claim started."""
        pass_time(self._claimer, after)
        self._claimer._more = bool(self.count)
        await self._claimer._claim(10, start_at_once=True)
        if all(since == EARLIEST for since in self.since):
            return "everywhere"
        return "behind" if self.behind else "on"


async def test_claims_continue_after_the_last_one_and_sometimes_look_behind_it(
    claimer: Claimer, monkeypatch: pytest.MonkeyPatch
) -> None:
    claims = Claims(claimer, monkeypatch)
    claims.count = 10
    assert [await claims.look() for _ in range(4)] == ["everywhere", "on", "on", "on"]
    assert [await claims.look(0.3), await claims.look()] == ["behind", "on"]
    assert [await claims.look(6), await claims.look()] == ["everywhere", "on"]
    claims.count = 0
    assert await claims.look() == "behind", (
        "an empty result may have missed tasks that committed late"
    )


async def test_slow_claims_look_behind_less_often(
    claimer: Claimer, monkeypatch: pytest.MonkeyPatch
) -> None:
    claims = Claims(claimer, monkeypatch)
    claims.count, claims.duration = 10, 1.0
    assert [await claims.look(), await claims.look(4)] == ["everywhere", "on"]
    claims.duration = 0.0
    assert [await claims.look(5), await claims.look(12)] == ["behind", "everywhere"], (
        "20 seconds after a claim of one second"
    )
    claims.duration = 10.0
    assert await claims.look(6) == "everywhere"
    claims.duration = 0.0
    assert [await claims.look(59) == "everywhere", await claims.look(2)] == [False, "everywhere"], (
        "the interval is at most a minute"
    )


async def test_prefetched_tasks_are_released_only_when_handlers_stay_slow(
    claimer: Claimer,
) -> None:
    async def immediately() -> None: ...

    given_back: list[GivenBack] = []
    fake: Any = claimer
    fake.runner = SimpleNamespace(
        running=[SimpleNamespace(claim=claim_at(NOW))] * claimer.settings.worker_concurrency,
        ahead=lambda _: 0,
        until_slot_free=immediately,
    )  # fmt: skip
    fake.membership = SimpleNamespace(worker_id=UUID(int=1), may_start=lambda: True)
    fake.reports = SimpleNamespace(add=lambda _worker, _claim, end: given_back.append(end))
    claimer._look_for_strays_at = math.inf
    claimer._waiting.append((UUID(int=1), claim_at(NOW)))
    claimer._claimed_at = claimer._clock()
    pass_time(claimer, PATIENCE_SECONDS / 2)
    await claimer._once()
    assert not given_back
    pass_time(claimer, PATIENCE_SECONDS)
    await claimer._once()
    assert [(end.reason, end.counts) for end in given_back] == [(Reason.DRAIN, False)]


async def test_claimed_tasks_start_while_the_next_claim_is_in_progress(
    claimer: Claimer, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    started = asyncio.Event()

    async def slow_claim(*_: Any, **__: Any) -> list[Claim]:
        events.append("claim sent")
        await asyncio.wait_for(started.wait(), 5)
        events.append("claim answered")
        return []

    def start(*_: Any) -> None:
        events.append("started")
        started.set()

    async def no_task_alone(**_: Any) -> bool:
        return False

    monkeypatch.setattr("task_service.worker.claimer.claim_in_slot", slow_claim)
    fake: Any = claimer
    fake._acquire = nullcontext
    fake.runner = SimpleNamespace(running={}, ahead=lambda _: 100, start=start)
    fake.membership = SimpleNamespace(worker_id=UUID(int=1), may_start=lambda: True)
    claimer._look_for_strays_at = claimer._look_for_alone_at = math.inf
    claimer._waiting.extend([(UUID(int=1), claim_at(NOW))] * 2)
    fake._look_for_alone = no_task_alone
    await claimer._once()
    assert events == ["claim sent", "started", "started", "claim answered"]
