"""Worker processes in the database: registering, renewing the lease, dying, and what becomes of their tasks.

Declaring dead and releasing are separate statements on purpose: in one, a claim that commits in between would stay with
the dead worker.
"""

from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any
from uuid import UUID

from task_service.domain.outcomes import ALONE_AFTER_LOSSES, POISON_AFTER_LOSSES, Reason
from task_service.queue.statements import Connection, statement

RELEASE_BATCH = 1000


@dataclass(frozen=True, slots=True)
class WorkerRow:
    """What a process says of itself when it registers; `host` and `slot` tell its successor that it is gone."""

    id: UUID
    host: str
    pod_name: str | None
    pod_uid: str | None
    container: str | None
    slot: str
    node: str | None
    version: str
    queues: list[str]
    concurrency: int
    lease_seconds: float
    process_started_at: datetime


@dataclass(frozen=True, slots=True)
class Lease:
    """The answer to a heartbeat."""

    draining: bool
    drained_reason: str | None
    cancel_requested: frozenset[UUID]


@dataclass(frozen=True, slots=True)
class Release:
    """What became of a dead worker's tasks: given to others, or ended as failed."""

    released: int
    failed: int


async def register(connection: Connection, row: WorkerRow) -> list[UUID]:
    """Enter this process; return its predecessors in the same place, which the caller releases."""
    values = (getattr(row, f.name) for f in fields(row))
    return [r[0] for r in await connection.fetch(statement("register"), *values)]


async def heartbeat(connection: Connection, worker_id: UUID) -> Lease | None:
    """Renew the lease; None when this worker was declared dead."""
    row = await connection.fetchrow(statement("heartbeat"), worker_id)
    if row is None:
        return None
    return Lease(
        row["state"] == "draining", row["drained_reason"], frozenset(row["cancel_requested"])
    )


async def read_worker(connection: Connection, worker_id: UUID) -> dict[str, Any] | None:
    """A worker as `list_workers` shows it, and `expired`: it is dead or its lease is over. None when it is unknown."""
    row = await connection.fetchrow(statement("worker"), worker_id)
    return dict(row) if row else None


async def drain(connection: Connection, worker_id: UUID, reason: Reason) -> str | None:
    """Ask a worker to claim no more; return its state, None when it is unknown."""
    return await connection.fetchval(statement("drain"), worker_id, reason)  # type: ignore[no-any-return]


async def declare_dead(connection: Connection, worker_id: UUID, reason: Reason) -> bool:
    """Declare a worker dead, for good; False when it was already, or is unknown."""
    return await connection.fetchval(statement("declare_dead"), worker_id, reason) is not None


async def declare_expired(connection: Connection) -> list[UUID]:
    """Declare every worker dead whose lease is over. Only for callers that have held their own for a lease."""
    return [row[0] for row in await connection.fetch(statement("declare_expired"))]


async def unreleased(connection: Connection, *, strangers: bool) -> list[tuple[UUID, Reason]]:
    """Dead workers that may still have tasks; with `strangers`, also ids in the queue that nobody registered."""
    rows = await connection.fetch(statement("unreleased"), strangers)
    return [(row["worker_id"], Reason(row["reason"])) for row in rows]


async def release(connection: Connection, worker_id: UUID, reason: Reason) -> Release:
    """Put a dead worker's tasks back, or end them when the reason says so. Idempotent; batches commit one by one."""
    released = failed = 0
    while True:
        rows = await connection.fetch(
            statement("release"),
            worker_id,
            reason,
            reason.counts,
            RELEASE_BATCH,
            reason.suspicious,
            ALONE_AFTER_LOSSES,
            POISON_AFTER_LOSSES,
        )
        failed += sum(row["final"] for row in rows)
        released += sum(not row["final"] for row in rows)
        if len(rows) < RELEASE_BATCH:
            break
    await connection.execute(statement("released"), worker_id)
    return Release(released, failed)


async def explain_loss(connection: Connection, worker_id: UUID, reason: Reason) -> int:
    """Replace the reason `unknown` of a worker's death and of its lost attempts; how many attempts."""
    return int(await connection.fetchval(statement("explain_loss"), worker_id, reason))


async def prune(connection: Connection, older_than_seconds: float) -> None:
    """Forget workers that died so long ago."""
    await connection.execute(statement("prune_workers"), older_than_seconds)
