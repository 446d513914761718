"""Looking after others: workers whose lease is over, tasks of dead workers, rows that are no longer needed.

Every worker does this; the statements skip what another one is at.
"""

import asyncio
from collections.abc import Callable

import asyncpg
import structlog

from task_service.domain.outcomes import Reason
from task_service.queue import workers
from task_service.queue.statements import Connection
from task_service.settings import Settings
from task_service.store.database import is_unavailable
from task_service.telemetry import metrics

STRANGERS_EVERY = 20
PRUNE_EVERY = 1200
KEEP_DEAD_SECONDS = 7 * 24 * 3600.0
log = structlog.get_logger(__name__)


class Maintenance:
    """The sweep, once per heartbeat."""

    def __init__(self, settings: Settings, pool: asyncpg.Pool, may_judge: Callable[[], bool]) -> None:
        self._settings, self._pool, self._may_judge = settings, pool, may_judge

    async def run(self) -> None:
        """Sweep until cancelled."""
        sweeps = 0
        while True:
            await asyncio.sleep(self._settings.heartbeat_seconds)
            try:
                async with self._pool.acquire() as connection:
                    await self.sweep(connection, strangers=sweeps % STRANGERS_EVERY == 0)
                    if sweeps % PRUNE_EVERY == 0:
                        await workers.prune(connection, KEEP_DEAD_SECONDS)
                sweeps += 1
            except Exception as error:
                log.warning("sweep_failed", error=repr(error), exc_info=not is_unavailable(error))

    async def sweep(self, connection: Connection, *, strangers: bool) -> None:
        """Declare the expired dead (if our own lease is old enough), then release what the dead held."""
        if self._may_judge():
            for worker_id in await workers.declare_expired(connection):
                metrics.WORKERS_DEAD.labels(Reason.UNKNOWN).inc()
                log.warning("worker_lease_over", worker_id=str(worker_id))
        for worker_id, reason in await workers.unreleased(connection, strangers=strangers):
            done = await workers.release(connection, worker_id, reason)
            if done.released or done.failed:
                metrics.RELEASED.labels(reason).inc(done.released + done.failed)
                log.warning(
                    "tasks_released",
                    worker_id=str(worker_id),
                    reason=reason,
                    released=done.released,
                    failed=done.failed,
                )
