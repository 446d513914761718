"""What a draft becomes: its row, its first status, its place in the queue, and what it waits for."""

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
    task_id: UUID, draft: NewTask, now: datetime, default_attempts: int, caller: Principal
) -> NewRow:
    """The row of a new task. With a handler and status pending it has no status of its own: the queue decides."""
    queued = draft.handler is not None and draft.status is Status.PENDING
    return NewRow(
        id=task_id,
        title=draft.title,
        description=draft.description,
        status=None if queued else draft.status.value,
        status_at=None if queued else now,
        priority=draft.priority.rank,
        assigned_to=draft.assigned_to,
        due_date=draft.due_date,
        tags=draft.tags,
        handler=draft.handler,
        payload=None if draft.payload is None else json_text(draft.payload),
        queue=draft.queue,
        run_at=draft.run_at,
        max_attempts=draft.max_attempts or default_attempts,
        timeout_seconds=draft.timeout_seconds,
        limit_key=draft.limit_key,
        created_by=caller.name,
    )


def shown_status(draft: NewTask, now: datetime) -> Status:
    """The first status that people see."""
    later = draft.status is Status.PENDING and draft.run_at is not None and draft.run_at > now
    return Status.SCHEDULED if later else draft.status


def entry_of(row: NewRow, trace_context: str | None) -> Entry | None:
    """The task's place in the queue; None when no worker has to run it."""
    if row.status is not None or row.handler is None:
        return None
    return Entry(
        row.id, row.queue, row.priority, row.run_at, row.max_attempts, row.timeout_seconds, row.handler,
        limit_key=row.limit_key, trace_context=trace_context,
    )  # fmt: skip


def needs_of(task_id: UUID, draft: NewTask) -> list[Need]:
    """What must have ended before a worker runs it."""
    return [Need(task_id, other, draft.when_failed == "cancel") for other in draft.needs]


def json_text(value: object) -> str:
    """JSON as PostgreSQL takes it."""
    try:
        return orjson.dumps(value).decode()
    except TypeError:  # integers beyond 64 bits
        return json.dumps(value, ensure_ascii=False)
