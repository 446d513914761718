"""Work queue of keys: an event only requests a pass, and one pass per key runs at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from task_operator.kube.kinds import Key


@dataclass
class _Slot:
    """The state of one key."""

    running: bool = False
    dirty: bool = False
    failures: int = 0
    timer: asyncio.TimerHandle | None = None


def backoff_seconds(failures: int, first: float = 0.5, ceiling: float = 60.0) -> float:
    """Return the pause after this many consecutive failures.

    >>> [backoff_seconds(n) for n in (1, 2, 3, 20)]
    [0.5, 1.0, 2.0, 60.0]
    """
    return float(min(first * 2 ** min(failures - 1, 16), ceiling))


class KeyedQueue:
    """Runs `process(key)` for every added key; additions during a pass cause one more pass.

    `process` returns the seconds until the next pass, or None. An exception is passed to `failed`
    and retried with a backoff per key. An `urgent` addition (a changed spec) ends the backoff.
    """

    def __init__(
        self,
        process: Callable[[Key], Awaitable[float | None]],
        failed: Callable[[Key, Exception, float], None],
        *,
        at_once: int,
        backoff: Callable[[int], float] = backoff_seconds,
    ) -> None:
        self._process = process
        self._failed = failed
        self._backoff = backoff
        self._slots: dict[Key, _Slot] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._limit = asyncio.Semaphore(at_once)
        self._closed = False

    def add(self, key: Key, *, after: float = 0.0, urgent: bool = False) -> None:
        """Request a pass; it is merged with a pending one unless that one is due later."""
        if self._closed:
            return
        slot = self._slots.setdefault(key, _Slot())
        if urgent:
            slot.failures = 0
        if slot.running:
            slot.dirty = slot.dirty or after == 0.0
            return
        if slot.failures and slot.timer:
            return  # the key's backoff determines the next pass
        self._schedule(key, slot, after)

    async def close(self) -> None:
        """Cancel all passes and wait until they have ended."""
        self._closed = True
        for slot in self._slots.values():
            if slot.timer:
                slot.timer.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _schedule(self, key: Key, slot: _Slot, after: float) -> None:
        loop = asyncio.get_running_loop()
        if slot.timer and slot.timer.when() <= loop.time() + after:
            return
        if slot.timer:
            slot.timer.cancel()
            slot.timer = None
        if after > 0:
            slot.timer = loop.call_later(after, self._start, key, slot)
        else:
            self._start(key, slot)

    def _start(self, key: Key, slot: _Slot) -> None:
        slot.timer, slot.running, slot.dirty = None, True, False
        task = asyncio.create_task(self._run(key, slot), name=f"pass {key[0]}/{key[1]}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, key: Key, slot: _Slot) -> None:
        again: float | None = None
        try:
            async with self._limit:
                slot.dirty = False
                again = await self._process(key)
            slot.failures = 0
        except Exception as error:  # noqa: BLE001 - `failed` logs and counts it; retried
            slot.failures += 1
            again = self._backoff(slot.failures)
            self._failed(key, error, again)
        finally:
            slot.running = False
        if self._closed:
            return
        if slot.dirty and not slot.failures:
            again = 0.0
        if again is not None:
            self._schedule(key, slot, again)
        elif not slot.failures:
            del self._slots[key]
