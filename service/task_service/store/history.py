"""What happened to a task: changes by people (`task_history`) and attempts by workers (`runs`), in
one order.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    Text,
    case,
    cast,
    func,
    insert,
    literal,
    literal_column,
    select,
    tuple_,
    union_all,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from task_service.domain.outcomes import STATUS_OF_OUTCOME, Outcome
from task_service.domain.statuses import Status
from task_service.store.cursors import decode_cursor, encode_cursor
from task_service.store.tables import runs, task_history

DELETED = "deleted"
"""The new status in the history of a task that was deleted."""


@dataclass(frozen=True, slots=True)
class Event:
    """One line of the history. `kind` change: by a person, `key` its id; run: by a worker, `key`
    its fence.
    """

    at: datetime
    kind: str
    key: int
    previous_status: str | None
    new_status: str
    by: str | None
    reason: str | None
    fields: list[str]


@dataclass(frozen=True, slots=True)
class RunRow:
    """A finished attempt; `result` is JSON text."""

    fence: int
    attempt: int
    worker_id: UUID | None
    claimed_at: datetime | None
    finished_at: datetime
    outcome: str
    reason: str | None
    final: bool
    result: str | None
    error: str | None


async def note_change(
    connection: AsyncConnection,
    task_id: UUID,
    statuses: tuple[Status, Status | str],
    actor: str,
    *,
    reason: str | None = None,
    fields: Collection[str] = (),
) -> None:
    """Write who changed a task, from which status to which, why, and which fields."""
    previous, new = statuses
    row = {"task_id": task_id, "previous_status": previous, "new_status": new, "changed_by": actor}
    await connection.execute(
        insert(task_history).values(**row, reason=reason, fields=sorted(fields))
    )


async def list_history(
    connection: AsyncConnection, task_id: UUID, limit: int, cursor: str | None = None
) -> tuple[list[Event], str | None]:
    """One page of a task's history, oldest first, and the next page's cursor."""
    events = _events(task_id)
    statement = select(events).order_by(events.c.at, events.c.kind, events.c.key).limit(limit + 1)
    if cursor is not None:
        after = decode_cursor(cursor, datetime, str, int)
        statement = statement.where(
            tuple_(events.c.at, events.c.kind, events.c.key) > tuple_(*after)
        )
    found = [Event(*row) for row in await connection.execute(statement)]
    if len(found) <= limit:
        return found, None
    last = found[limit - 1]
    return found[:limit], encode_cursor(last.at, last.kind, last.key)


def status_after_run() -> Any:
    """The status that an attempt left its task in, as an expression over `runs`."""
    r = runs.c
    ended = {o.value: str(s) for o, s in STATUS_OF_OUTCOME.items()}
    # Outcomes that always end a task tell also of runs that were reopened before there was a mark
    # for it.
    ends = (
        r.final
        | r.reopened
        | r.outcome.in_([Outcome.COMPLETED, Outcome.CANCELLED, Outcome.DISCARDED])
    )
    return case((ends, case(ended, value=r.outcome, else_="failed")), else_="pending")


def _events(task_id: UUID) -> Any:
    h, r = task_history.c, runs.c
    changes = select(
        h.at, literal("change", Text).label("kind"), h.id.label("key"), h.previous_status, h.new_status,
        h.changed_by.label("by"), h.reason, h.fields,
    ).where(h.task_id == task_id)  # fmt: skip
    attempts = select(
        r.finished_at, literal("run", Text), r.fence, literal("processing", Text), status_after_run(),
        cast(r.worker_id, Text), func.coalesce(r.reason, r.outcome), literal_column("'{}'::text[]"),
    ).where(r.task_id == task_id)  # fmt: skip
    return union_all(changes, attempts).subquery("events")


async def list_runs(
    connection: AsyncConnection, task_id: UUID, limit: int, cursor: str | None = None
) -> tuple[list[RunRow], str | None]:
    """One page of a task's finished attempts, oldest first, and the next page's cursor."""
    after = decode_cursor(cursor, int)[0] if cursor is not None else -1
    columns = [
        cast(runs.c.result, Text) if n == "result" else runs.c[n]
        for n in RunRow.__dataclass_fields__
    ]
    statement = select(*columns).where(runs.c.task_id == task_id, runs.c.fence > after)
    found = [
        RunRow(*row)
        for row in await connection.execute(statement.order_by(runs.c.fence).limit(limit + 1))
    ]
    return found[:limit], encode_cursor(found[limit - 1].fence) if len(found) > limit else None
