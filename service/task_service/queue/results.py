"""Reporting how attempts ended. Everything matches task, worker and fence: a claim that was lost changes nothing."""

from collections.abc import Sequence
from operator import attrgetter
from typing import NamedTuple
from uuid import UUID

import asyncpg

from task_service.domain.outcomes import Outcome, Reason
from task_service.domain.progress import Progress
from task_service.queue.statements import Connection, or_none, statement

Attempt = tuple[UUID, int]
"""A task and the fence under which it was claimed."""


class Finished(NamedTuple):
    """An attempt that ends its task. `result` is JSON text. In the order in which finish.sql takes them."""

    task_id: UUID
    fence: int
    outcome: Outcome
    reason: str | None = None
    result: str | None = None
    error: str | None = None


class GivenBack(NamedTuple):
    """An attempt after which the task waits for another one."""

    task_id: UUID
    fence: int
    outcome: Outcome
    reason: Reason | str | None = None
    error: str | None = None
    delay_seconds: float = 0.0
    counts: bool = True


class Told(NamedTuple):
    """What the handler of an attempt says of its progress."""

    task_id: UUID
    fence: int
    progress: Progress


class Ended(NamedTuple):
    """The attempts that were not ours, and those tasks of the other ones that others may wait for (`dependencies`)."""

    lost: set[Attempt]
    awaited: list[UUID]


async def finish(connection: Connection, worker_id: UUID, ends: Sequence[Finished]) -> set[Attempt]:
    """End attempts in one statement; return those that were ours. A data error (22xxx) fails the whole batch."""
    return {(e.task_id, e.fence) for e in ends} - (await end(connection, worker_id, ends)).lost


async def end(connection: Connection, worker_id: UUID, ends: Sequence[Finished]) -> Ended:
    """As `finish`, but say which were not ours, and which tasks others may wait for: mostly none."""
    ends = sorted(ends, key=attrgetter("task_id"))
    tasks, fences, outcomes, *texts = (
        zip(*ends, strict=True) if ends else [()] * len(Finished._fields)
    )
    rows = await connection.fetch(
        statement("finish"), worker_id, tasks, fences, outcomes, *map(or_none, texts)
    )
    return Ended(
        {(row[0], row[1]) for row in rows if row[2]}, [row[0] for row in rows if not row[2]]
    )


async def give_back(
    connection: Connection, worker_id: UUID, given: Sequence[GivenBack]
) -> set[Attempt]:
    """Put tasks back into the queue in one statement; return those that were ours."""
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


async def recorded(
    connection: Connection, worker_id: UUID, attempts: Sequence[Attempt]
) -> set[Attempt]:
    """Those of these attempts that are recorded as ours: the answer to an earlier report was lost, not the claim."""
    tasks, fences = [a[0] for a in attempts], [a[1] for a in attempts]
    rows = await connection.fetch(statement("recorded"), worker_id, tasks, fences)
    return _attempts(rows)


async def held(connection: Connection, worker_id: UUID) -> set[Attempt]:
    """Every attempt that this worker holds as far as the database knows."""
    return _attempts(await connection.fetch(statement("held"), worker_id))


async def hold(connection: Connection, worker_id: UUID, attempt: Attempt) -> bool:
    """Lock the attempt's queue row for the caller's transaction; False when the claim is lost."""
    return bool(await connection.fetchval(statement("hold"), attempt[0], worker_id, attempt[1]))


async def note_progress(
    connection: Connection, worker_id: UUID, told: Sequence[Told]
) -> set[Attempt]:
    """Note how far attempts are; those that are ours and that no transaction has locked."""
    told = sorted(told, key=lambda t: t.task_id)
    rows = await connection.fetch(
        statement("progress"),
        worker_id,
        [t.task_id for t in told],
        [t.fence for t in told],
        [t.progress.fraction for t in told],
        [t.progress.note for t in told],
    )
    return _attempts(rows)


async def extend(connection: Connection, worker_id: UUID, attempt: Attempt, seconds: float) -> bool:
    """Move the attempt's deadline to so many seconds from now; False when the claim is lost."""
    return (
        await connection.fetchval(statement("extend"), attempt[0], worker_id, attempt[1], seconds)
        is not None
    )


def _attempts(rows: Sequence[asyncpg.Record]) -> set[Attempt]:
    """Rows that begin with a task and a fence."""
    return {(row[0], row[1]) for row in rows}
