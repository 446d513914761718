"""The history of all tasks, newest first: changes by people and ends of workers' attempts."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Select, Text, cast, func, literal, literal_column, select, tuple_, union_all
from sqlalchemy.ext.asyncio import AsyncConnection

from task_service.store.cursors import decode_cursor, encode_cursor
from task_service.store.history import status_after_run
from task_service.store.tables import runs, task_history


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """Conditions that all hold; None: any."""

    task_id: UUID | None = None
    modified_by: str | None = None
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class AuditRow:
    """A line of the log. `number` is the change's id, or the fence of the attempt."""

    timestamp: datetime
    task_id: UUID
    number: int
    previous_status: str | None
    new_status: str
    modified_by: str | None
    reason: str | None
    fields: list[str]


async def list_audit(
    connection: AsyncConnection, wanted: AuditFilter, limit: int, cursor: str | None = None
) -> tuple[list[AuditRow], str | None]:
    """One page, newest first, and the next page's cursor."""
    before = decode_cursor(cursor, datetime, UUID, int) if cursor is not None else None
    rows = [
        AuditRow(*row) for row in await connection.execute(statement(wanted, limit + 1, before))
    ]
    if len(rows) <= limit:
        return rows, None
    last = rows[limit - 1]
    return rows[:limit], encode_cursor(last.timestamp, last.task_id, last.number)


def statement(wanted: AuditFilter, limit: int, before: tuple[Any, ...] | None) -> Any:
    """Each source gives its newest rows by its own index; then the two are merged."""
    worker_id = _worker(wanted.modified_by) if wanted.modified_by is not None else None
    sources = [_changes(wanted)]
    if wanted.modified_by is None or worker_id is not None:
        sources.append(_attempts(wanted, worker_id))
    bounded = []
    for source in sources:
        at, task_id, number = (
            source.selected_columns[name] for name in ("at", "task_id", "number")
        )
        # The time alone is what the index can begin at; the rest tells rows of one moment apart.
        older = (
            [at <= before[0], tuple_(at, task_id, number) < tuple_(*before)]
            if before is not None
            else []
        )
        ordered = (
            source.where(*older).order_by(at.desc(), task_id.desc(), number.desc()).limit(limit)
        )
        bounded.append(ordered.subquery().select())
    both = union_all(*bounded).subquery()
    c = both.c
    return select(both).order_by(c.at.desc(), c.task_id.desc(), c.number.desc()).limit(limit)


def _changes(wanted: AuditFilter) -> Select[Any]:
    h = task_history.c
    found = select(
        h.at.label("at"), h.task_id.label("task_id"), h.id.label("number"), h.previous_status.label("previous_status"),
        h.new_status.label("new_status"), h.changed_by.label("modified_by"), h.reason.label("reason"),
        h.fields.label("fields"),
    )  # fmt: skip
    if wanted.modified_by is not None:
        found = found.where(h.changed_by == wanted.modified_by)
    return _narrow(found, h.task_id, h.at, wanted)


def _attempts(wanted: AuditFilter, worker_id: UUID | None) -> Select[Any]:
    r = runs.c
    found = select(
        r.finished_at.label("at"), r.task_id.label("task_id"), r.fence.label("number"),
        literal("processing", Text).label("previous_status"), status_after_run().label("new_status"),
        cast(r.worker_id, Text).label("modified_by"), func.coalesce(r.reason, r.outcome).label("reason"),
        literal_column("'{}'::text[]").label("fields"),
    )  # fmt: skip
    if worker_id is not None:
        found = found.where(r.worker_id == worker_id)
    return _narrow(found, r.task_id, r.finished_at, wanted)


def _narrow(found: Select[Any], task_id: Any, at: Any, wanted: AuditFilter) -> Select[Any]:
    if wanted.task_id is not None:
        found = found.where(task_id == wanted.task_id)
    if wanted.since is not None:
        found = found.where(at >= wanted.since)
    if wanted.until is not None:
        found = found.where(at < wanted.until)
    return found


def _worker(name: str) -> UUID | None:
    """The id of the worker of this name; None for a name that no worker has, whose attempts nobody
    need look for.
    """
    try:
        return UUID(name)
    except ValueError:
        return None
