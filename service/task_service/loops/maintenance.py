"""Looking after others: workers whose lease is over, tasks of dead workers, rows that are no longer needed.

Every worker does this, and so does every API process without one, since workers may be scaled to none. The statements
skip what another one is at.
"""

import asyncio
from collections.abc import Callable

import structlog

from task_service.clocks import machine_seconds
from task_service.domain.outcomes import Reason
from task_service.queue import dependencies, workers
from task_service.queue.counters import fold
from task_service.queue.statements import Connection
from task_service.settings import Settings
from task_service.store.cache import outbox
from task_service.store.database import Acquire, is_unavailable
from task_service.store.idempotency import prune_keys
from task_service.store.retention import DONE, FAILED, forget_tasks
from task_service.store.unique import prune_unique_keys
from task_service.telemetry import metrics

STRANGERS_EVERY = 20
PRUNE_EVERY = 1200
KEEP_DEAD_SECONDS = 7 * 24 * 3600.0
KEEP_KEYS_SECONDS = 24 * 3600.0
KEEP_NOTES_SECONDS = 24 * 3600.0
"""Notes to Redis that are older by this than all that it can hold say nothing any more."""
log = structlog.get_logger(__name__)


class Maintenance:
    """The sweep, once per heartbeat."""

    def __init__(
        self, settings: Settings, acquire: Acquire, may_judge: Callable[[], bool] | None = None
    ) -> None:
        """Without `may_judge` our own sweeps tell whether a lease that looks over is."""
        self._settings, self._acquire = settings, acquire
        self._may_judge = may_judge or self._is_steady
        self._unbroken_since: float | None = None

    async def run(self) -> None:
        """Sweep until cancelled."""
        sweeps = 0
        while True:
            await asyncio.sleep(self._settings.heartbeat_seconds)
            try:
                async with self._acquire() as connection:
                    await self.sweep(connection, strangers=sweeps % STRANGERS_EVERY == 0)
                    await fold(connection)
                await self._forget()
                if sweeps % PRUNE_EVERY == 0:
                    async with self._acquire() as connection:
                        await workers.prune(connection, KEEP_DEAD_SECONDS)
                        await prune_keys(connection, self._settings.idempotency_hours)
                        await prune_unique_keys(connection, KEEP_KEYS_SECONDS)
                        await outbox.prune(
                            connection, KEEP_NOTES_SECONDS + self._settings.cache_ttl_seconds
                        )
                sweeps += 1
                self._unbroken_since = self._unbroken_since or machine_seconds()
            except Exception as error:
                self._unbroken_since = None
                log.warning("sweep_failed", error=repr(error), exc_info=not is_unavailable(error))

    async def _forget(self) -> None:
        keep = self._settings
        for outcomes, days in ((DONE, keep.keep_done_days), (FAILED, keep.keep_failed_days)):
            if forgotten := await forget_tasks(self._acquire, outcomes, days):
                log.info("tasks_forgotten", number=forgotten, days=days)

    def _is_steady(self) -> bool:
        """Whether the database has answered every sweep for a whole lease: after an outage all leases look over."""
        since = self._unbroken_since
        return since is not None and machine_seconds() - since >= self._settings.lease_seconds

    async def sweep(self, connection: Connection, *, strangers: bool) -> None:
        """Declare the expired dead (if we may judge), release what the dead held, let those go on who waited."""
        if self._may_judge():
            for worker_id in await workers.declare_expired(connection):
                metrics.WORKERS_DEAD.labels(Reason.UNKNOWN).inc()
                log.warning("worker_lease_over", worker_id=str(worker_id))
        ended = 0
        for worker_id, reason in await workers.list_unreleased(connection, orphans=strangers):
            done = await workers.release(connection, worker_id, reason)
            ended += done.failed
            if done.released or done.failed:
                metrics.RELEASED.labels(reason).inc(done.released + done.failed)
                log.warning(
                    "tasks_released",
                    worker_id=str(worker_id),
                    reason=reason,
                    released=done.released,
                    failed=done.failed,
                )
        await dependencies.sweep(connection, everything=strangers or ended > 0)
