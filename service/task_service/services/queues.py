"""Queues and workers: their figures; pause and resume queues, release and drain workers."""

from dataclasses import asdict
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from task_service.domain.errors import ConflictError, NotFoundError
from task_service.domain.outcomes import Reason
from task_service.domain.principals import Principal
from task_service.queue import workers
from task_service.queue.figures import COUNTS, queue_figures
from task_service.queue.statements import statement
from task_service.queue.workers import ReleaseResult, release_worker
from task_service.services.transactions import Transaction
from task_service.store import queues as store
from task_service.store.database import raw
from task_service.store.queues import PauseRow

EMPTY: dict[str, Any] = dict.fromkeys(COUNTS, 0) | {"oldest_age_seconds": 0.0}
"""The figures of a queue without tasks."""
log = structlog.get_logger(__name__)


async def read_queues(connection: AsyncConnection) -> dict[str, Any]:
    """Return the figures of all queues that have tasks or are paused, and their sums."""
    figures = await queue_figures(await raw(connection))
    pauses = await store.list_pauses(connection)
    by_name = {q["name"]: q for q in figures["queues"]}
    names = sorted({*by_name, *pauses})
    queues = [_with_pause({"name": n} | by_name.get(n, EMPTY), pauses.get(n)) for n in names]
    return figures | {"queues": queues}


async def read_queue(connection: AsyncConnection, name: str) -> dict[str, Any]:
    """Return one queue's figures with its rates. A queue that no task has named yet has zeros."""
    figures = await queue_figures(await raw(connection))
    own = next((q for q in figures["queues"] if q["name"] == name), {"name": name} | EMPTY)
    rates = asdict(await store.read_rates(connection, name))
    pause_row = await store.read_pause(connection, name)
    return _with_pause(own, pause_row) | rates | {"at": figures["at"]}


async def read_claimable(connection: AsyncConnection) -> dict[str, Any]:
    """Return the figures that workers are scaled by.

    Tasks that wait in a paused queue need no worker and count as zero; running ones count.
    """
    figures = await queue_figures(await raw(connection))
    paused = await store.list_pauses(connection)
    waiting = {"ready": 0, "scheduled": 0, "blocked": 0, "oldest_age_seconds": 0.0}
    queues = [q | waiting if q["name"] in paused else q for q in figures["queues"]]
    sums = {name: sum(q[name] for q in queues) for name in COUNTS}
    oldest = max((q["oldest_age_seconds"] for q in queues), default=0.0)
    return figures | sums | {"oldest_age_seconds": oldest, "queues": queues}


async def pause(
    transaction: Transaction, name: str, reason: str | None, caller: Principal
) -> dict[str, Any]:
    """Stop workers from claiming tasks of a queue; running tasks continue, and tasks can be added.
    Idempotent.
    """
    await store.insert_pause(transaction.sql, name, reason, caller.name)
    log.info("queue_paused", queue=name, reason=reason, by=caller.name)
    return await read_queue(transaction.sql, name)


async def resume(transaction: Transaction, name: str, caller: Principal) -> dict[str, Any]:
    """Let workers claim from a queue again, and wake them. Idempotent."""
    if await store.delete_pause(transaction.sql, name):
        await transaction.driver.execute(
            statement("notify_queues"), transaction.wakeups.inside([name])
        )
        log.info("queue_resumed", queue=name, by=caller.name)
    return await read_queue(transaction.sql, name)


async def read_worker(connection: AsyncConnection, worker_id: UUID) -> dict[str, Any]:
    """Read one worker process. Raises NotFoundError."""
    worker = await workers.read_worker(await raw(connection), worker_id)
    if worker is None:
        raise NotFoundError("worker", worker_id)
    return worker


async def release(
    transaction: Transaction, worker_id: UUID, reason: Reason, caller: Principal, *, force: bool
) -> ReleaseResult:
    """Declare a worker dead and release its tasks. Raises NotFoundError; ConflictError when the
    worker is alive.

    With `force` a living worker is released too: its next heartbeat fails, it drops its tasks and
    registers again.
    """
    worker = await read_worker(transaction.sql, worker_id)
    if not worker["expired"] and not force:
        until = worker["lease_expires_at"].isoformat()
        raise ConflictError(
            f"The worker {worker_id} is alive: its lease lasts until {until}. "
            "Use force=true to release it anyway."
        )
    result = await release_worker(transaction.driver, worker_id, reason)
    if result is None:
        raise NotFoundError("worker", worker_id)
    log.info(
        "worker_released", worker_id=str(worker_id), reason=reason, by=caller.name, **asdict(result)
    )
    return result


async def drain(transaction: Transaction, worker_id: UUID, caller: Principal) -> str:
    """Ask a worker to claim no more tasks; return its state. Raises NotFoundError."""
    state = await workers.drain(transaction.driver, worker_id, Reason.DRAIN)
    if state is None:
        raise NotFoundError("worker", worker_id)
    log.info("worker_drain_asked", worker_id=str(worker_id), reason=Reason.DRAIN, by=caller.name)
    return state


def _with_pause(figures: dict[str, Any], row: PauseRow | None) -> dict[str, Any]:
    return {
        **figures,
        "paused": row is not None,
        "paused_reason": row and row.reason,
        "paused_by": row and row.paused_by,
        "paused_at": row and row.paused_at,
    }
