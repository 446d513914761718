"""Rows as JSON. Written by hand and by orjson: answers are the most frequent thing that this
service makes.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any
from uuid import UUID

import orjson
from fastapi import Response

from task_service.domain.priorities import BY_RANK
from task_service.schemas.types import fragment
from task_service.services.etags import etag_of
from task_service.services.tasks import Created
from task_service.store.conversations import ConversationRow
from task_service.store.history import Event, RunRow
from task_service.store.tasks import TaskRow

OPTIONS = orjson.OPT_UTC_Z


def to_json(content: Any) -> bytes:
    """JSON bytes; times in UTC end in Z."""
    return orjson.dumps(content, _plain, OPTIONS)


def _plain(value: Any) -> str:
    """The driver's UUIDs are a subclass, which orjson leaves to us."""
    if isinstance(value, UUID):
        return str(value)
    raise TypeError(type(value).__name__)


def answer(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """An answer of JSON."""
    return Response(to_json(content), status, headers=headers, media_type="application/json")


def page(items: Iterable[Any], next_cursor: str | None) -> Response:
    """An answer of one page."""
    return answer({"items": list(items), "next_cursor": next_cursor})


def task_item(t: TaskRow) -> dict[str, Any]:
    """A task as lists show it (`models.TaskItem`)."""
    return {
        "id": t.id,
        "title": t.title,
        "description": t.description,
        "status": t.status,
        "priority": BY_RANK[t.priority],
        "assigned_to": t.assigned_to,
        "due_date": t.due_date,
        "tags": t.tags,
        "handler": t.handler,
        "queue": t.queue,
        "run_at": t.run_at,
        "max_attempts": t.max_attempts,
        "timeout_seconds": t.timeout_seconds,
        "limit_key": t.limit_key,
        "attempt": t.attempt,
        "error": t.error,
        "created_by": t.created_by,
        "created_at": t.created_at,
        "updated_at": t.updated_at,
        "processed_at": t.processed_at,
        "processing_instance_id": t.processing_instance_id,
        "cancel_requested_at": t.cancel_requested_at,
        "conversation_count": t.conversation_count,
        "version": t.version,
    }


def task_answer(
    t: TaskRow, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """An answer of one task (`models.Task`) with its ETag."""
    progress = (
        {"fraction": t.progress, "note": t.progress_note, "at": t.progress_at}
        if t.progress_at
        else None
    )
    content = task_item(t) | {
        "waits_for": t.waits_for,
        "progress": progress,
        "payload": fragment(t.payload),
        "result": fragment(t.result),
    }
    return answer(content, status, {"ETag": etag_of(t), **(headers or {})})


def created(
    made: Created, show: Callable[[TaskRow, int, Mapping[str, str]], Response], path: str
) -> Response:
    """201, or 200 for a task that was there already; `path` is where it is."""
    return show(made.task, 201 if made.is_new else 200, {"Location": path})


def conversation(c: ConversationRow) -> dict[str, Any]:
    """A conversation (`models.Conversation`)."""
    return {
        "id": c.id,
        "task_id": c.task_id,
        "body": fragment(c.body),
        "status": c.status,
        "created_at": c.created_at,
        "updated_at": c.updated_at,
        "processed_at": c.processed_at,
    }


def event(e: Event) -> dict[str, Any]:
    """A line of the history (`models.HistoryEvent`)."""
    return {
        "at": e.at,
        "kind": e.kind,
        "previous_status": e.previous_status,
        "new_status": e.new_status,
        "by": e.by,
        "reason": e.reason,
        "fields": e.fields,
    }


def run(r: RunRow) -> dict[str, Any]:
    """A finished attempt (`models.Run`)."""
    return {
        "fence": r.fence,
        "attempt": r.attempt,
        "worker_id": r.worker_id,
        "started_at": r.claimed_at,
        "finished_at": r.finished_at,
        "outcome": r.outcome,
        "reason": r.reason,
        "final": r.final,
        "result": fragment(r.result),
        "error": r.error,
    }
