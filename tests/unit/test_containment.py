"""What a fork of the worker's may not do, where no fork is needed to see it."""

import asyncio

import pytest

from task_service.worker.isolation import fork_safety
from task_service.worker.isolation.fork_safety import Process


class ForkEndedError(Exception):
    """Stands in for the end of the process."""


@pytest.fixture(autouse=True)
def in_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    def end_fork() -> None:
        raise ForkEndedError

    monkeypatch.setattr(Process, "is_fork", True)
    monkeypatch.setattr(fork_safety, "end_fork", end_fork)


async def test_a_task_that_comes_to_its_end_ends_the_fork_and_one_that_is_garbage_does_not() -> (
    None
):
    with pytest.raises(ForkEndedError):
        await fork_safety._without_exit(asyncio.sleep(0))
    waiting = fork_safety._without_exit(asyncio.sleep(0))
    waiting.send(None)
    waiting.close()
