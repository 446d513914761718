"""Queues and workers: their figures, pausing and resuming, releasing and draining, in the caller's transaction."""

from dataclasses import asdict
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from task_service.domain.errors import ConflictError, NotFoundError
from task_service.domain.outcomes import Reason
from task_service.domain.principals import Principal
from task_service.queue import workers
from task_service.queue.figures import COUNTS, ReleaseResult, queue_figures, release_worker
from task_service.queue.statements import statement
from task_service.services.context import Context
from task_service.store import queues as store
from task_service.store.database import raw
from task_service.store.queues import PauseRow

NONE: dict[str, Any] = dict.fromkeys(COUNTS, 0) | {"oldest_age_seconds": 0.0}
log = structlog.get_logger(__name__)


async def read_queues(connection: AsyncConnection) -> dict[str, Any]:
    """The figures of all queues that have tasks or are paused, and their sums."""
    figures = await queue_figures(await raw(connection))
    pauses = await store.list_pauses(connection)
    named = {q["name"]: q for q in figures["queues"]}
    names = sorted({*named, *pauses})
    return figures | {
        "queues": [_with_pause({"name": n} | named.get(n, NONE), pauses.get(n)) for n in names]
    }


async def read_queue(connection: AsyncConnection, name: str) -> dict[str, Any]:
    """One queue's figures with its rates. A queue is there as soon as somebody names it: an empty one has zeros."""
    figures = await queue_figures(await raw(connection))
    found = next((q for q in figures["queues"] if q["name"] == name), {"name": name} | NONE)
    rates = asdict(await store.read_rates(connection, name))
    return (
        _with_pause(found, await store.read_pause(connection, name)) | rates | {"at": figures["at"]}
    )


async def claimable_figures(connection: AsyncConnection) -> dict[str, Any]:
    """The figures by which workers are scaled: what waits in a paused queue asks for none, what runs still has one."""
    figures = await queue_figures(await raw(connection))
    paused = await store.list_pauses(connection)
    waiting = {"ready": 0, "scheduled": 0, "blocked": 0, "oldest_age_seconds": 0.0}
    queues = [q | waiting if q["name"] in paused else q for q in figures["queues"]]
    sums = {name: sum(q[name] for q in queues) for name in COUNTS}
    oldest = max((q["oldest_age_seconds"] for q in queues), default=0.0)
    return figures | sums | {"oldest_age_seconds": oldest, "queues": queues}


async def pause(
    connection: AsyncConnection, name: str, reason: str | None, caller: Principal
) -> dict[str, Any]:
    """Let workers claim nothing more from a queue; what they hold goes on, and tasks can be added. Idempotent."""
    await store.insert_pause(connection, name, reason, caller.name)
    log.info("queue_paused", queue=name, reason=reason, by=caller.name)
    return await read_queue(connection, name)


async def resume(
    context: Context, connection: AsyncConnection, name: str, caller: Principal
) -> dict[str, Any]:
    """Let workers claim from a queue again, and wake them. Idempotent."""
    if await store.delete_pause(connection, name):
        await (await raw(connection)).execute(statement("notify"), context.wakeups.inside([name]))
        log.info("queue_resumed", queue=name, by=caller.name)
    return await read_queue(connection, name)


async def read_worker(connection: AsyncConnection, worker_id: UUID) -> dict[str, Any]:
    """One worker process. Raises NotFoundError."""
    found = await workers.read_worker(await raw(connection), worker_id)
    if found is None:
        raise NotFoundError("worker", worker_id)
    return found


async def release(
    connection: AsyncConnection, worker_id: UUID, reason: Reason, caller: Principal, *, force: bool
) -> ReleaseResult:
    """Declare a worker dead and give its tasks to others. Raises NotFoundError; ConflictError for one that lives.

    By force also one that lives: it finds out with its next heartbeat, drops what it holds, and registers anew.
    """
    found = await read_worker(connection, worker_id)
    if not found["expired"] and not force:
        until = found["lease_expires_at"].isoformat()
        raise ConflictError(
            f"The worker {worker_id} lives: its lease holds until {until}. force=true releases it too."
        )
    done = await release_worker(await raw(connection), worker_id, reason)
    if done is None:
        raise NotFoundError("worker", worker_id)
    log.info(
        "worker_released", worker_id=str(worker_id), reason=reason, by=caller.name, **asdict(done)
    )
    return done


async def drain(connection: AsyncConnection, worker_id: UUID, caller: Principal) -> str:
    """Ask a worker to claim no more; return its state. Raises NotFoundError."""
    state = await workers.drain(await raw(connection), worker_id, Reason.DRAIN)
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
