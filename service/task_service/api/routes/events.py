"""`/api/v1/events` and `/api/v1/tasks/{task_id}/events`: live task events (Server-Sent Events)."""

from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Header, Query, Request
from pydantic import Field

from task_service.api.auth.access import MAY_READ, AuthorizedRoute
from task_service.api.dependencies import Transactions
from task_service.api.http.problems import documented
from task_service.api.http.sse import EventStream, Streams, may_read
from task_service.api.routes.tasks import Id, require_task
from task_service.schemas.tasks import Input
from task_service.schemas.types import Name, StatusWord
from task_service.services.events.streams import EventFilter
from task_service.store.events import Position

router = APIRouter(route_class=AuthorizedRoute, prefix="/api/v1", tags=["events"])

DELETED = "task.deleted"
EventName = Literal[
    "task.created",
    "task.changed",
    "task.completed",
    "task.failed",
    "task.cancelled",
    "task.requeued",
    "task.deleted",
]
EXAMPLE = """retry: 2000
id: 48213

id: 48213.907
event: task.created
data: {"event":"task.created","task_id":"0195d6a2-8c4f-7a3e-9a51-3f6f2d1c0b4a","status":"pending",…}

: alive
id: 48377

"""
STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "An endless stream of Server-Sent Events.",
        "content": {"text/event-stream": {"schema": {"type": "string"}, "example": EXAMPLE}},
    }
}
LastEventId = Annotated[
    str | None,
    Header(
        alias="Last-Event-ID",
        description="The last `id` that you received. The stream continues after it.",
    ),
]


class StreamQuery(Input):
    """Start of a stream and filters of its events."""

    last_event_id: str | None = Field(
        default=None,
        description=(
            "Same as the header, which takes precedence. `0` starts at the beginning. "
            "Without both, the stream starts now."
        ),
    )
    event: list[EventName] = Field(default_factory=list, description="Only these events.")
    status: list[StatusWord] = Field(
        default_factory=list, description="Only events that led to one of these statuses."
    )


class EventQuery(StreamQuery):
    """Filters of a stream. An event must match all of them."""

    task_id: list[UUID] = Field(
        default_factory=list, max_length=100, description="Only these tasks."
    )
    queue: Name | None = Field(default=None, description="Only tasks that are in this queue now.")
    handler: Name | None = Field(default=None, description="Only tasks with this handler.")


@router.get(
    "/events",
    status_code=200,
    response_class=EventStream,
    responses=STREAM | documented(),
    dependencies=[MAY_READ],
    name="stream_events",
)
async def stream_events(
    request: Request,
    events: Streams,
    query: Annotated[EventQuery, Query()],
    last_event_id: LastEventId = None,
) -> EventStream:
    """Stream the events of all tasks in one order: each change by a caller, each end of an attempt.

    Reconnect with the last `id`: no event is missed or repeated. `event: reset` means that the
    database was restored to a time before that id; reload the data that you show. See
    docs/events.md.
    """
    where = EventFilter(
        frozenset(query.task_id),
        frozenset(query.event),
        frozenset(query.status),
        query.queue,
        query.handler,
    )
    return EventStream(
        events, await events.open(where, _after(query, last_event_id)), may_read(request)
    )


@router.get(
    "/tasks/{task_id}/events",
    status_code=200,
    response_class=EventStream,
    responses=STREAM | documented(404),
    dependencies=[MAY_READ],
)
async def stream_task_events(
    request: Request,
    transactions: Transactions,
    events: Streams,
    task_id: Id,
    query: Annotated[StreamQuery, Query()],
    last_event_id: LastEventId = None,
) -> EventStream:
    """Stream the events of one task until it is deleted."""
    async with transactions.read() as connection:
        await require_task(connection, task_id)
    where = EventFilter(frozenset({task_id}), frozenset(query.event), frozenset(query.status))
    stream = await events.open(where, _after(query, last_event_id))
    return EventStream(events, stream, may_read(request), last=DELETED)


def _after(query: StreamQuery, header: str | None) -> Position | None:
    """Return the position after which the stream continues; None means now.

    Raises InvalidFieldError, which names the invalid header or parameter.
    """
    if header:
        return Position.parse(header)
    return Position.parse(query.last_event_id, "last_event_id") if query.last_event_id else None
