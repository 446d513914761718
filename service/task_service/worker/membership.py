"""Being a worker: an identity of its own, a lease that is renewed, and finding out that one was
declared dead.

Dead is final. A process that was declared dead, or could not renew for a lease, drops what it holds
and registers anew.
"""

import asyncio
import contextlib
import fcntl
from collections.abc import Callable
from datetime import UTC, datetime
from typing import IO, Any, Protocol
from uuid import UUID

import structlog

from task_service.clocks import machine_seconds
from task_service.domain.ids import new_id
from task_service.domain.outcomes import Reason
from task_service.queue import workers
from task_service.queue.statements import Connection
from task_service.queue.workers import WorkerRow
from task_service.settings import Settings
from task_service.store.database import Acquire
from task_service.telemetry import metrics

RETRY_SECONDS = 1.0
log = structlog.get_logger(__name__)


class Slot:
    """A number that no other living process of this container or host has, by a file lock."""

    def __init__(self, settings: Settings) -> None:
        self._folder = settings.runtime_dir
        self._file: IO[Any] | None = None
        self._container = settings.container_name or ""

    def take(self) -> str:
        """Lock the lowest free number and return the slot's name. The lock ends with the process,
        however it ends.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        for number in range(1000):
            file = (self._folder / f"slot-{number}.lock").open("a")
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._file = file
                return f"{self._container}:{self._folder}:{number}"
            file.close()
        raise RuntimeError(f"no free slot in {self._folder}: 1000 workers run here")

    def free(self) -> None:
        """Give the number to the next process."""
        if self._file is not None:
            self._file.close()
            self._file = None


class Losses(Protocol):
    """Who must hear of a lost lease, a cancel, a drain."""

    def lost_lease(self) -> None:
        """Every claim is lost: drop all runs."""

    def registered(self) -> None:
        """There is a lease: claims may begin."""

    def cancel(self, task_id: UUID) -> None:
        """A person cancelled this task."""

    def drained(self, reason: str | None) -> None:
        """Somebody asked this worker to claim no more."""


class Membership:
    """This process's row in `workers`."""

    def __init__(
        self,
        settings: Settings,
        acquire: Acquire,
        losses: Losses,
        clock: Callable[[], float] = machine_seconds,
    ) -> None:
        self.settings, self._acquire, self._losses, self._clock = settings, acquire, losses, clock
        self.worker_id: UUID | None = None
        self._former_id: UUID | None = None
        self.wake = asyncio.Event()  # a heartbeat is wanted now
        self._slot = Slot(settings)
        self._slot_name = ""
        self._acknowledged = float("-inf")  # when the last acknowledged heartbeat was sent
        self._unbroken_since: float | None = None
        self.process_started_at = datetime.now(UTC)

    def may_start(self) -> bool:
        """Whether the lease still holds by our own clock, so that a handler may be started."""
        return (
            self.worker_id is not None
            and self._clock() - self._acknowledged <= self.settings.lease_seconds
        )

    def may_judge(self) -> bool:
        """Whether our own heartbeats have succeeded for a whole lease: only then others may be
        declared dead.
        """
        since = self._unbroken_since
        return since is not None and self._clock() - since >= self.settings.lease_seconds

    async def run(self) -> None:
        """Register, then renew until cancelled."""
        self._slot_name = self._slot.take()
        while True:
            await self.beat_once()
            pause = (
                self.settings.heartbeat_seconds
                if self._unbroken_since is not None
                else RETRY_SECONDS
            )
            left = self._seconds_left()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(
                    self.wake.wait(), pause if left is None else min(pause, left)
                )
            self.wake.clear()

    def _seconds_left(self) -> float | None:
        """Until our lease is over by our own clock; None while there is none."""
        if self.worker_id is None:
            return None
        return max(0.0, self._acknowledged + self.settings.lease_seconds - self._clock())

    async def beat_once(self) -> None:
        """Register or renew; when neither works for a lease, give everything up, and then: others
        may start our tasks.

        A process that was itself paused, and so had no chance to renew, tries once.
        """
        patience = self._seconds_left()
        if patience is not None and self._unbroken_since is not None:
            patience = max(patience, self.settings.heartbeat_seconds)
        try:
            async with asyncio.timeout(patience):
                await self._beat()
        except Exception as error:  # noqa: BLE001 - the lease tells for how long that is fine
            self._unbroken_since = None
            metrics.HEARTBEATS_FAILED.inc()
            log.warning("heartbeat_failed", error=repr(error))
        if self.worker_id and not self.may_start():
            log.error(
                "lease_lost",
                worker_id=str(self.worker_id),
                lease_seconds=self.settings.lease_seconds,
            )
            self._lose()

    async def _beat(self) -> None:
        async with self._acquire() as connection:
            sent = self._clock()
            if self.worker_id is None:
                await self._register(connection)
            else:
                lease = await workers.heartbeat(connection, self.worker_id)
                if lease is None:
                    log.error("declared_dead", worker_id=str(self.worker_id))
                    self._lose()
                    sent = self._clock()
                    await self._register(connection)
                else:
                    if lease.draining:
                        self._losses.drained(lease.drained_reason)
                    for task_id in lease.cancel_requested:
                        self._losses.cancel(task_id)
        self._acknowledged = sent
        if self._unbroken_since is None:
            self._unbroken_since = sent
            self._losses.registered()

    def _lose(self) -> None:
        self._former_id, self.worker_id = self.worker_id, None
        self._unbroken_since = None
        self._losses.lost_lease()

    async def _register(self, connection: Connection) -> None:
        s, worker_id = self.settings, new_id()
        row = WorkerRow(
            id=worker_id, host=s.host_name, pod_name=s.pod_name, pod_uid=s.pod_uid, container=s.container_name,
            slot=self._slot_name, node=s.node_name, version=s.version, queues=list(s.worker_queues),
            concurrency=s.worker_concurrency, lease_seconds=s.lease_seconds, process_started_at=self.process_started_at,
        )  # fmt: skip
        predecessors = await workers.register(connection, row)
        log.info(
            "worker_registered", worker_id=str(worker_id), pod=s.pod_name, slot=self._slot_name
        )
        self.worker_id = worker_id
        for predecessor in predecessors:
            await self._release(connection, predecessor)
        if (
            self._former_id is not None
        ):  # others, who could not know, may have released it before we were back
            await workers.set_loss_reason(connection, self._former_id, Reason.OUTAGE)
            self._former_id = None

    async def _release(self, connection: Connection, predecessor: UUID) -> None:
        """Release who held our slot's lock and lost it: a process that is gone, or our own former
        self.
        """
        reason = Reason.OUTAGE if predecessor == self._former_id else Reason.UNKNOWN
        await workers.declare_dead(connection, predecessor, reason)
        done = await workers.release(connection, predecessor, reason)
        metrics.RELEASED.labels(reason).inc(done.released + done.failed)
        log.warning(
            "predecessor_released",
            worker_id=str(predecessor),
            reason=reason,
            released=done.released,
        )

    async def leave(self) -> None:
        """Say goodbye: this worker holds nothing any more (what it does hold is released,
        uncounted).
        """
        if self.worker_id is not None:
            async with self._acquire() as connection:
                await workers.declare_dead(connection, self.worker_id, Reason.SHUTDOWN)
                await workers.release(connection, self.worker_id, Reason.SHUTDOWN)
            log.info("worker_left", worker_id=str(self.worker_id))
            self.worker_id = None
        self._slot.free()
