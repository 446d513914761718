"""When the claim loop looks again: at the poll, or sooner where tasks come faster than notifications do."""

from types import SimpleNamespace
from typing import Any

import pytest

from task_service.settings import Settings
from task_service.worker.claimer import LOOK_AGAIN_SECONDS, Claimer

POLL = 1.0


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def claimer() -> Claimer:
    nothing: Any = SimpleNamespace()
    settings = Settings(_env_file=None, database_url="postgresql://unused/unused", poll_seconds=POLL)  # type: ignore[call-arg]
    made = Claimer(settings, nothing, nothing, nothing, nothing)
    made._clock = Clock()
    return made


def rest_after(claimer: Claimer, seconds: float, *, found: bool) -> float:
    assert isinstance(claimer._clock, Clock)
    claimer._clock.now += seconds
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
