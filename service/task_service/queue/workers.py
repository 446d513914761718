"""Worker processes in the database: registration, lease, death, and the release of their tasks.

Declaring a worker dead and releasing its tasks are separate statements on purpose. In a single
statement, a claim that commits in between would stay with the dead worker.
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
    """The registration of a worker process.

    A later process with the same `host` and `slot` is its successor and releases its tasks.
    """

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
    """The response to a heartbeat."""

    draining: bool
    drained_reason: str | None
    cancel_requested: frozenset[UUID]


@dataclass(frozen=True, slots=True)
class Release:
    """The number of a dead worker's tasks that returned to the queue, and that ended as failed."""

    released: int
    failed: int


@dataclass(frozen=True, slots=True)
class ReleaseResult:
    """The result of `release_worker`.

    `already_dead`: a successor, or the end of the lease, was first. `explained`: lost attempts
    whose reason was unknown until now.
    """

    released: int
    failed: int
    explained: int
    already_dead: bool


async def register(connection: Connection, row: WorkerRow) -> list[UUID]:
    """Register this process and return its predecessors, which the caller must release.

    Predecessors are workers of the same host and slot that are not released yet.
    """
    values = (getattr(row, f.name) for f in fields(row))
    return [r[0] for r in await connection.fetch(statement("register_worker"), *values)]


async def heartbeat(connection: Connection, worker_id: UUID) -> Lease | None:
    """Renew the lease. None if this worker was declared dead."""
    row = await connection.fetchrow(statement("heartbeat"), worker_id)
    if row is None:
        return None
    return Lease(
        row["state"] == "draining", row["drained_reason"], frozenset(row["cancel_requested"])
    )


async def read_worker(connection: Connection, worker_id: UUID) -> dict[str, Any] | None:
    """Return a worker with the fields of `list_workers` and `expired`. None if it is unknown.

    `expired`: the worker is dead or its lease has expired.
    """
    row = await connection.fetchrow(statement("read_worker"), worker_id)
    return dict(row) if row else None


async def list_workers(connection: Connection) -> list[dict[str, Any]]:
    """Return workers that are alive or died within the last hour, and how many tasks each holds."""
    return [dict(row) for row in await connection.fetch(statement("list_workers"))]


async def drain(connection: Connection, worker_id: UUID, reason: Reason) -> str | None:
    """Ask a worker to stop claiming and return its state. None if it is unknown."""
    return await connection.fetchval(statement("drain_worker"), worker_id, reason)  # type: ignore[no-any-return]


async def declare_dead(connection: Connection, worker_id: UUID, reason: Reason) -> bool:
    """Declare a worker dead, which is final. False if it was already dead or is unknown."""
    return await connection.fetchval(statement("declare_dead"), worker_id, reason) is not None


async def declare_expired(connection: Connection) -> list[UUID]:
    """Declare every worker with an expired lease dead.

    Only for callers that have renewed their own lease without interruption for one lease period.
    """
    return [row[0] for row in await connection.fetch(statement("declare_expired"))]


async def list_unreleased(connection: Connection, *, orphans: bool) -> list[tuple[UUID, Reason]]:
    """Return dead workers that may still hold tasks.

    With `orphans`, also return worker ids in the queue that have no row in `workers`.
    """
    rows = await connection.fetch(statement("list_unreleased_workers"), orphans)
    return [(row["worker_id"], Reason(row["reason"])) for row in rows]


async def release(connection: Connection, worker_id: UUID, reason: Reason) -> Release:
    """Return a dead worker's tasks to the queue, or end them as failed, depending on the reason.

    Safe to run more than once. Each batch is one transaction.
    """
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
    await connection.execute(statement("mark_worker_released"), worker_id)
    return Release(released, failed)


async def release_worker(
    connection: Connection, worker_id: UUID, reason: Reason
) -> ReleaseResult | None:
    """Declare a worker dead and release its tasks. None if the worker was never registered.

    Safe to run more than once. The two statements have separate snapshots: the second one sees
    every claim that the first one waited for.
    """
    if await connection.fetchval(statement("read_worker_state"), worker_id) is None:
        return None
    declared = await declare_dead(connection, worker_id, reason)
    done = await release(connection, worker_id, reason)
    explained = 0
    if not declared and reason is not Reason.UNKNOWN:
        explained = await set_loss_reason(connection, worker_id, reason)
    return ReleaseResult(done.released, done.failed, explained, already_dead=not declared)


async def set_loss_reason(connection: Connection, worker_id: UUID, reason: Reason) -> int:
    """Set the reason of a worker's death and of its lost attempts where it is still `unknown`.

    Return the number of attempts.
    """
    return int(await connection.fetchval(statement("set_loss_reason"), worker_id, reason))


async def prune(connection: Connection, older_than_seconds: float) -> None:
    """Delete the rows of workers that were released and died more than this long ago."""
    await connection.execute(statement("prune_workers"), older_than_seconds)
