"""The worker's lease by its own clock: when it may start handlers or declare others dead."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from task_service.queue import workers
from task_service.queue.workers import Lease
from task_service.settings import Settings
from task_service.worker.membership import Membership, Slot


class LossCounter:
    """Listener that counts lost leases."""

    def __init__(self) -> None:
        self.lost = 0

    def lost_lease(self) -> None:
        self.lost += 1

    def registered(self) -> None: ...

    def cancel(self, task_id: UUID) -> None: ...

    def drained(self, reason: str | None) -> None: ...


@asynccontextmanager
async def acquire() -> AsyncIterator[Any]:
    """Yield no connection: the tests replace every statement."""
    yield None


def settings(folder: Path) -> Settings:
    return Settings(_env_file=None, runtime_dir=folder, heartbeat_seconds=3, lease_seconds=15)  # type: ignore[call-arg]


def test_lease_starts_when_the_acknowledged_heartbeat_was_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        now, losses = [1000.0], LossCounter()
        membership = Membership(settings(tmp_path), acquire, losses, clock=lambda: now[0])

        async def register(*_: Any) -> list[UUID]:
            return []

        async def slow_heartbeat(*_: Any) -> Lease:
            now[0] += 10  # the lease starts when the heartbeat is sent, not when it is answered
            return Lease(draining=False, drained_reason=None, cancel_requested=frozenset())

        monkeypatch.setattr(workers, "register", register)
        monkeypatch.setattr(workers, "heartbeat", slow_heartbeat)
        await membership._beat()
        await membership._beat()
        now[0] += 4
        assert membership.may_start()
        now[0] += 2
        assert not membership.may_start()

    asyncio.run(run())


def test_worker_declares_others_dead_only_after_a_lease_of_own_heartbeats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        now, losses, away = [1000.0], LossCounter(), [False]
        membership = Membership(settings(tmp_path), acquire, losses, clock=lambda: now[0])

        async def register(*_: Any) -> list[UUID]:
            return []

        async def heartbeat(*_: Any) -> Lease:
            if away[0]:
                raise OSError("away")
            return Lease(draining=False, drained_reason=None, cancel_requested=frozenset())

        monkeypatch.setattr(workers, "register", register)
        monkeypatch.setattr(workers, "heartbeat", heartbeat)
        await membership.beat_once()
        for _ in range(4):
            now[0] += 3
            await membership.beat_once()
        assert not membership.may_judge(), "12 seconds are shorter than a lease"
        now[0] += 3
        await membership.beat_once()
        assert membership.may_judge()
        away[0] = True
        now[0] += 3
        await membership.beat_once()
        assert not membership.may_judge(), "after a failed heartbeat, every lease looks expired"
        away[0] = False
        now[0] += 3
        await membership.beat_once()
        assert not membership.may_judge()
        assert losses.lost == 0

    asyncio.run(run())


def test_worker_declared_dead_drops_its_tasks_and_registers_with_a_new_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        losses, ids = LossCounter(), []
        membership = Membership(settings(tmp_path), acquire, losses)

        async def register(_: Any, row: workers.WorkerRow) -> list[UUID]:
            ids.append(row.id)
            return []

        async def dead(*_: Any) -> None:
            return None

        monkeypatch.setattr(workers, "register", register)
        monkeypatch.setattr(workers, "heartbeat", dead)
        await membership.beat_once()
        await membership.beat_once()
        assert losses.lost == 1
        assert len(set(ids)) == 2
        assert membership.worker_id == ids[-1]

    asyncio.run(run())


def test_slot_is_free_after_its_holder_released_it(tmp_path: Path) -> None:
    first, second, third = (Slot(settings(tmp_path)) for _ in range(3))
    name = first.take()
    assert second.take() != name
    first.free()
    assert third.take() == name
