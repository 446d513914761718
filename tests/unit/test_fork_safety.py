"""Rules for forks of the worker process that can be tested without forking."""

import asyncio

import pytest

from task_service.worker.isolation import fork_safety
from task_service.worker.isolation.fork_safety import Process


class ForkEndedError(Exception):
    """Raised instead of ending the process."""


@pytest.fixture(autouse=True)
def in_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    def end_fork() -> None:
        raise ForkEndedError

    monkeypatch.setattr(Process, "is_fork", True)
    monkeypatch.setattr(fork_safety, "end_fork", end_fork)


async def test_finished_task_ends_the_fork_and_a_garbage_collected_one_does_not() -> None:
    with pytest.raises(ForkEndedError):
        await fork_safety._without_exit(asyncio.sleep(0))
    waiting = fork_safety._without_exit(asyncio.sleep(0))
    waiting.send(None)
    waiting.close()
