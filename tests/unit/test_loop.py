"""Background loops: intervals, wake-ups, errors, and the end of a loop."""

import asyncio
import math
from collections.abc import Awaitable, Callable

import pytest

from task_service.loops.loop import Loop, running

HOUR = 3600.0


class Calls:
    """Function for a loop that counts its calls and fails, or returns a pause, as told."""

    def __init__(self, pause: float | None = None) -> None:
        self.count = 0
        self.pause = pause
        self.error: Exception | None = None
        self._called = asyncio.Event()

    async def once(self) -> float | None:
        self.count += 1
        self._called.set()
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        return self.pause

    async def reach(self, count: int) -> None:
        """Wait for this many calls."""
        async with asyncio.timeout(5):
            while self.count < count:
                self._called.clear()
                await self._called.wait()


async def settle() -> None:
    """Let every task that can run do so."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_loop_repeats_after_each_interval() -> None:
    calls = Calls()
    async with running([Loop("test", calls.once, 0.001)]):
        await calls.reach(3)


async def test_returned_pause_replaces_the_interval() -> None:
    calls = Calls(pause=0.0)
    async with running([Loop("test", calls.once, HOUR)]):
        await calls.reach(2)
        calls.pause = None
        await settle()
        count = calls.count
        await settle()
        assert calls.count == count


@pytest.mark.parametrize("interval", [HOUR, math.inf])
async def test_wake_ends_the_wait(interval: float) -> None:
    calls, wake = Calls(), asyncio.Event()
    async with running([Loop("test", calls.once, interval, wake)]):
        await calls.reach(1)
        wake.set()
        await calls.reach(2)
        assert not wake.is_set()


async def test_first_call_waits_for_the_interval_or_a_wake_up() -> None:
    calls, wake = Calls(), asyncio.Event()
    async with running([Loop("test", calls.once, HOUR, wake, waits_first=True)]):
        await settle()
        assert calls.count == 0
        wake.set()
        await calls.reach(1)


@pytest.mark.parametrize(("error", "has_trace"), [(OSError("away"), False), (KeyError("x"), True)])
async def test_error_is_logged_and_the_loop_continues(
    error: Exception, has_trace: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: list[dict[str, object]] = []
    log = type("Log", (), {"warning": lambda _, event, **fields: logged.append({event: fields})})
    monkeypatch.setattr("task_service.loops.loop.log", log())
    calls = Calls()
    calls.error = error
    async with running([Loop("test", calls.once, 0.001)]):
        await calls.reach(2)
    fields = {"loop": "test", "error": repr(error), "exc_info": has_trace}
    assert logged[0] == {"loop_failed": fields}


async def test_wake_up_does_not_shorten_the_pause_before_a_retry() -> None:
    calls, wake = Calls(), asyncio.Event()
    calls.error = OSError("away")
    async with running([Loop("test", calls.once, math.inf, wake, retry_seconds=HOUR)]):
        await calls.reach(1)
        wake.set()
        await settle()
        assert calls.count == 1


async def test_retry_follows_without_a_wake_up() -> None:
    calls = Calls()
    calls.error = OSError("away")
    loop = Loop("test", calls.once, math.inf, asyncio.Event(), retry_seconds=0.001)
    async with running([loop]):
        await calls.reach(3)


async def test_has_ended_is_true_after_an_error_that_a_loop_does_not_catch() -> None:
    async def cancel() -> None:
        raise asyncio.CancelledError

    await check_end(cancel, ends=True)


async def test_has_ended_is_false_while_the_loop_runs() -> None:
    await check_end(Calls().once, ends=False)


async def check_end(once: Callable[[], Awaitable[float | None]], *, ends: bool) -> None:
    loop = Loop("test", once, HOUR)
    assert not loop.has_ended
    await loop.start()
    await settle()
    assert loop.has_ended is ends
    await loop.stop()
