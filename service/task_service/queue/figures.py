"""What the management port tells the operator, and does for it."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from task_service.domain.outcomes import Reason
from task_service.queue import workers
from task_service.queue.statements import Connection, statement

BOUND = 20_000
"""What is counted of a queue at most, unless both what is due and what comes later are more (see `figures.sql`)."""
COUNTS = ("ready", "scheduled", "running", "blocked")


@dataclass(frozen=True, slots=True)
class ReleaseResult:
    """What a release did.

    `already_dead`: a successor or the lease came first. `explained`: lost attempts whose unknown reason is known now.
    """

    released: int
    failed: int
    explained: int
    already_dead: bool


async def queue_figures(connection: Connection) -> dict[str, Any]:
    """Depths and the oldest waiting task's age, in all and per queue."""
    queues = [dict(row) for row in await connection.fetch(statement("figures"), BOUND)]
    total = {name: sum(q[name] for q in queues) for name in COUNTS}
    oldest = max((q["oldest_age_seconds"] for q in queues), default=0.0)
    return {"at": datetime.now(UTC), **total, "oldest_age_seconds": oldest, "queues": queues}


async def list_workers(connection: Connection) -> list[dict[str, Any]]:
    """Living workers and those that died within the hour, with what they hold."""
    return [dict(row) for row in await connection.fetch(statement("workers"))]


async def release_worker(
    connection: Connection, worker_id: UUID, reason: Reason
) -> ReleaseResult | None:
    """Declare a worker dead and release its tasks; idempotent. None when nobody registered it.

    Two statements, each with a snapshot of its own: the second sees every claim that the first one waited for.
    """
    if await connection.fetchval(statement("worker_state"), worker_id) is None:
        return None
    declared = await workers.declare_dead(connection, worker_id, reason)
    done = await workers.release(connection, worker_id, reason)
    explained = 0
    if not declared and reason is not Reason.UNKNOWN:
        explained = await workers.explain_loss(connection, worker_id, reason)
    return ReleaseResult(done.released, done.failed, explained, already_dead=not declared)
