"""Reports of attempts.

Each statement matches task, worker and fence, so a lost claim changes nothing.
"""

from collections.abc import Sequence
from operator import attrgetter
from typing import NamedTuple
from uuid import UUID

import asyncpg

from task_service.domain.outcomes import Outcome, Reason
from task_service.domain.progress import Progress
from task_service.queue.statements import Connection, or_none, statement

Attempt = tuple[UUID, int]
"""A task's id and the fence under which it was claimed."""


class Finished(NamedTuple):
    """An attempt that ends its task. `result` is JSON text.

    The fields have the order of the parameters of finish.sql.
    """

    task_id: UUID
    fence: int
    outcome: Outcome
    reason: str | None = None
    result: str | None = None
    error: str | None = None


class GivenBack(NamedTuple):
    """An attempt after which the task returns to the queue. `counts`: it counts as an attempt."""

    task_id: UUID
    fence: int
    outcome: Outcome
    reason: Reason | str | None = None
    error: str | None = None
    delay_seconds: float = 0.0
    counts: bool = True


class ProgressReport(NamedTuple):
    """The progress that a handler reports for its attempt."""

    task_id: UUID
    fence: int
    progress: Progress


class FinishResult(NamedTuple):
    """The result of `finish_batch`.

    `lost`: attempts that this worker did not hold. `awaited`: ended tasks that other tasks may wait
    for (see `dependencies`).
    """

    lost: set[Attempt]
    awaited: list[UUID]


async def finish(connection: Connection, worker_id: UUID, ends: Sequence[Finished]) -> set[Attempt]:
    """Finish attempts in one statement and return those that this worker held.

    A data error (SQLSTATE 22xxx) fails the whole batch.
    """
    result = await finish_batch(connection, worker_id, ends)
    return {(e.task_id, e.fence) for e in ends} - result.lost


async def finish_batch(
    connection: Connection, worker_id: UUID, ends: Sequence[Finished]
) -> FinishResult:
    """Finish attempts in one statement; return lost attempts and awaited tasks, usually none."""
    ends = sorted(ends, key=attrgetter("task_id"))
    tasks, fences, outcomes, *texts = (
        zip(*ends, strict=True) if ends else [()] * len(Finished._fields)
    )
    rows = await connection.fetch(
        statement("finish"), worker_id, tasks, fences, outcomes, *map(or_none, texts)
    )
    return FinishResult(
        {(row[0], row[1]) for row in rows if row[2]}, [row[0] for row in rows if not row[2]]
    )


async def give_back(
    connection: Connection, worker_id: UUID, given: Sequence[GivenBack]
) -> set[Attempt]:
    """Return tasks to the queue in one statement. Return the attempts that this worker held."""
    given = sorted(given, key=attrgetter("task_id"))
    rows = await connection.fetch(
        statement("give_back"),
        worker_id,
        [g.task_id for g in given],
        [g.fence for g in given],
        [g.outcome for g in given],
        [g.reason for g in given],
        [g.error for g in given],
        [g.delay_seconds for g in given],
        [g.counts for g in given],
    )
    return _attempts(rows)


async def list_recorded_attempts(
    connection: Connection, worker_id: UUID, attempts: Sequence[Attempt]
) -> set[Attempt]:
    """Return the attempts for which a run of this worker is already recorded.

    For these, an earlier report succeeded and only its response was lost.
    """
    tasks, fences = [a[0] for a in attempts], [a[1] for a in attempts]
    rows = await connection.fetch(statement("list_recorded_attempts"), worker_id, tasks, fences)
    return _attempts(rows)


async def list_attempts(connection: Connection, worker_id: UUID) -> set[Attempt]:
    """Return every attempt that this worker holds according to the database."""
    return _attempts(await connection.fetch(statement("list_attempts"), worker_id))


async def lock_attempt(connection: Connection, worker_id: UUID, attempt: Attempt) -> bool:
    """Lock the attempt's queue row for the caller's transaction. False if the claim is lost."""
    task_id, fence = attempt
    return bool(await connection.fetchval(statement("lock_attempt"), task_id, worker_id, fence))


async def record_progress(
    connection: Connection, worker_id: UUID, reports: Sequence[ProgressReport]
) -> set[Attempt]:
    """Record progress and return the attempts that were updated.

    Skips attempts that this worker does not hold and rows that a transaction has locked.
    """
    reports = sorted(reports, key=attrgetter("task_id"))
    rows = await connection.fetch(
        statement("update_progress"),
        worker_id,
        [report.task_id for report in reports],
        [report.fence for report in reports],
        [report.progress.fraction for report in reports],
        [report.progress.note for report in reports],
    )
    return _attempts(rows)


async def extend_deadline(
    connection: Connection, worker_id: UUID, attempt: Attempt, seconds: float
) -> bool:
    """Set the attempt's deadline to this many seconds from now. False if the claim is lost."""
    task_id, fence = attempt
    deadline = await connection.fetchval(
        statement("extend_deadline"), task_id, worker_id, fence, seconds
    )
    return deadline is not None


def _attempts(rows: Sequence[asyncpg.Record]) -> set[Attempt]:
    """Return the attempts of rows that start with a task's id and a fence."""
    return {(row[0], row[1]) for row in rows}
