"""Background loop that cleans up after others: expired leases, tasks of dead workers, old rows.

Every worker runs it, and so does every API process without a worker, because the workers may be
scaled to zero. The statements skip rows that another process has locked.
"""

from collections.abc import Callable

import structlog

from task_service.clocks import machine_seconds
from task_service.domain.outcomes import Reason
from task_service.loops.loop import Loop
from task_service.queue import dependencies, workers
from task_service.queue.counters import fold
from task_service.queue.statements import Connection
from task_service.settings import Settings
from task_service.store.cache import outbox
from task_service.store.database import Acquire
from task_service.store.idempotency import prune_keys
from task_service.store.retention import DONE, FAILED, forget_tasks
from task_service.store.unique import prune_unique_keys
from task_service.telemetry import metrics

ORPHANS_EVERY = 20
"""One sweep in this many also searches for orphaned claims and for dependents that were missed."""
PRUNE_EVERY = 1200
KEEP_DEAD_SECONDS = 7 * 24 * 3600.0
KEEP_KEYS_SECONDS = 24 * 3600.0
KEEP_NOTES_SECONDS = 24 * 3600.0
"""Invalidations for Redis have no effect once they are this much older than every cached entry."""
log = structlog.get_logger(__name__)


class Maintenance:
    """Sweep that runs once per heartbeat."""

    def __init__(
        self, settings: Settings, acquire: Acquire, may_judge: Callable[[], bool] | None = None
    ) -> None:
        """Create the sweep.

        `may_judge` returns whether a lease that looks expired is expired. By default, the sweeps
        of the last lease must have succeeded.
        """
        self._settings, self._acquire = settings, acquire
        self._may_judge = may_judge or self._is_steady
        self._unbroken_since: float | None = None
        self._sweeps = 0

    def loop(self) -> Loop:
        """Create the background loop."""
        return Loop("maintenance", self.once, self._settings.heartbeat_seconds, waits_first=True)

    async def once(self) -> None:
        """Sweep, fold counters, forget old tasks, and now and then prune old rows."""
        try:
            async with self._acquire() as connection:
                await self.sweep(connection, orphans=self._sweeps % ORPHANS_EVERY == 0)
                await fold(connection)
            await self._forget()
            if self._sweeps % PRUNE_EVERY == 0:
                await self._prune()
        except Exception:
            self._unbroken_since = None
            raise
        self._sweeps += 1
        self._unbroken_since = self._unbroken_since or machine_seconds()

    async def sweep(self, connection: Connection, *, orphans: bool) -> None:
        """Declare expired workers dead, release the tasks of dead ones, and settle dependents.

        With `orphans` it also releases claims of workers that have no row, and settles dependents
        of which nothing was recorded.
        """
        if self._may_judge():
            for worker_id in await workers.declare_expired(connection):
                metrics.WORKERS_DEAD.labels(Reason.UNKNOWN).inc()
                log.warning("worker_lease_over", worker_id=str(worker_id))
        failed = 0
        for worker_id, reason in await workers.list_unreleased(connection, orphans=orphans):
            done = await workers.release(connection, worker_id, reason)
            failed += done.failed
            if done.released or done.failed:
                metrics.RELEASED.labels(reason).inc(done.released + done.failed)
                log.warning(
                    "tasks_released",
                    worker_id=str(worker_id),
                    reason=reason,
                    released=done.released,
                    failed=done.failed,
                )
        await dependencies.sweep(connection, everything=orphans or failed > 0)

    async def _forget(self) -> None:
        keep = self._settings
        for outcomes, days in ((DONE, keep.keep_done_days), (FAILED, keep.keep_failed_days)):
            if forgotten := await forget_tasks(self._acquire, outcomes, days):
                log.info("tasks_forgotten", number=forgotten, days=days)

    async def _prune(self) -> None:
        settings = self._settings
        async with self._acquire() as connection:
            await workers.prune(connection, KEEP_DEAD_SECONDS)
            await prune_keys(connection, settings.idempotency_hours)
            await prune_unique_keys(connection, KEEP_KEYS_SECONDS)
            await outbox.prune(connection, KEEP_NOTES_SECONDS + settings.cache_ttl_seconds)

    def _is_steady(self) -> bool:
        """Return whether every sweep succeeded for a whole lease.

        After an outage of the database, all leases look expired.
        """
        since = self._unbroken_since
        return since is not None and machine_seconds() - since >= self._settings.lease_seconds
