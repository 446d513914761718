"""The lease by a worker's own clock: when it may start handlers, and when it may judge others."""

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


class Told:
    """Counts what a membership tells."""

    def __init__(self) -> None:
        self.lost = 0

    def lost_lease(self) -> None:
        self.lost += 1

    def registered(self) -> None: ...

    def cancel(self, task_id: UUID) -> None: ...

    def drained(self, reason: str | None) -> None: ...


@asynccontextmanager
async def acquire() -> AsyncIterator[Any]:
    """Lends nothing: the statements are replaced, and nothing is sent. (Time passes by hand here.)"""
    yield None


def settings(folder: Path) -> Settings:
    return Settings(_env_file=None, runtime_dir=folder, heartbeat_seconds=3, lease_seconds=15)  # type: ignore[call-arg]


def test_the_lease_counts_from_when_the_last_acknowledged_heartbeat_was_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        now, told = [1000.0], Told()
        membership = Membership(settings(tmp_path), acquire, told, clock=lambda: now[0])

        async def register(*_: Any) -> list[UUID]:
            return []

        async def slow_heartbeat(*_: Any) -> Lease:
            now[0] += 10  # the answer takes ten seconds: the lease began when it was sent
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


def test_others_are_judged_only_after_a_whole_lease_of_unbroken_heartbeats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        now, told, away = [1000.0], Told(), [False]
        membership = Membership(settings(tmp_path), acquire, told, clock=lambda: now[0])

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
        assert not membership.may_judge(), "12 seconds are less than a lease"
        now[0] += 3
        await membership.beat_once()
        assert membership.may_judge()
        away[0] = True
        now[0] += 3
        await membership.beat_once()
        assert not membership.may_judge(), (
            "one heartbeat failed: after an outage every lease looks over"
        )
        away[0] = False
        now[0] += 3
        await membership.beat_once()
        assert not membership.may_judge()
        assert told.lost == 0

    asyncio.run(run())


def test_a_worker_that_was_declared_dead_drops_everything_and_registers_under_a_new_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        told, ids = Told(), []
        membership = Membership(settings(tmp_path), acquire, told)

        async def register(_: Any, row: workers.WorkerRow) -> list[UUID]:
            ids.append(row.id)
            return []

        async def dead(*_: Any) -> None:
            return None

        monkeypatch.setattr(workers, "register", register)
        monkeypatch.setattr(workers, "heartbeat", dead)
        await membership.beat_once()
        await membership.beat_once()
        assert told.lost == 1
        assert len(set(ids)) == 2
        assert membership.worker_id == ids[-1]

    asyncio.run(run())


def test_a_slot_is_free_again_when_its_holder_is_gone(tmp_path: Path) -> None:
    first, second, third = (Slot(settings(tmp_path)) for _ in range(3))
    name = first.take()
    assert second.take() != name
    first.free()
    assert third.take() == name
