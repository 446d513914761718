"""Rows of a new task, derived from its request: the task, its queue entry, and its dependencies."""

import json
from datetime import datetime
from uuid import UUID

import orjson

from task_service.domain.principals import Principal
from task_service.domain.statuses import Status
from task_service.queue.dependencies import Need
from task_service.queue.entries import Entry
from task_service.schemas.tasks import NewTask
from task_service.store.inserts import NewRow


def new_row(
    task_id: UUID, new: NewTask, now: datetime, default_attempts: int, caller: Principal
) -> NewRow:
    """Return the row of a new task. Its status is None when the queue decides it: pending and with
    a handler.
    """
    queued = new.handler is not None and new.status is Status.PENDING
    return NewRow(
        id=task_id,
        title=new.title,
        description=new.description,
        status=None if queued else new.status.value,
        status_at=None if queued else now,
        priority=new.priority.rank,
        assigned_to=new.assigned_to,
        due_date=new.due_date,
        tags=new.tags,
        handler=new.handler,
        payload=None if new.payload is None else json_text(new.payload),
        queue=new.queue,
        run_at=new.run_at,
        max_attempts=new.max_attempts or default_attempts,
        timeout_seconds=new.timeout_seconds,
        limit_key=new.limit_key,
        created_by=caller.name,
    )


def shown_status(new: NewTask, now: datetime) -> Status:
    """Return the first status that users see."""
    later = new.status is Status.PENDING and new.run_at is not None and new.run_at > now
    return Status.SCHEDULED if later else new.status


def entry_of(row: NewRow, trace_context: str | None) -> Entry | None:
    """Return the task's queue entry; None when no worker runs it."""
    if row.status is not None or row.handler is None:
        return None
    return Entry(
        row.id, row.queue, row.priority, row.run_at, row.max_attempts, row.timeout_seconds, row.handler,
        limit_key=row.limit_key, trace_context=trace_context,
    )  # fmt: skip


def needs_of(task_id: UUID, new: NewTask) -> list[Need]:
    """Return the dependencies that must end before a worker runs the task."""
    return [Need(task_id, other, new.when_failed == "cancel") for other in new.needs]


def json_text(value: object) -> str:
    """Return JSON text for PostgreSQL."""
    try:
        return orjson.dumps(value).decode()
    except TypeError:  # integers beyond 64 bits
        return json.dumps(value, ensure_ascii=False)
