"""Service C's shapes and words (see `c`)."""

from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import BaseModel, Field

from task_service.domain.statuses import Status
from task_service.schemas.tasks import (
    ABSENT,
    ConversationChange,
    ConversationStatus,
    Input,
    NewConversation,
)
from task_service.schemas.types import (
    ChangedDescription,
    ChangedTitle,
    Description,
    StatusWord,
    Title,
    fragment,
)
from task_service.store.conversations import ConversationRow
from task_service.store.tasks import TaskRow

SHOWN_AS_PENDING = frozenset({Status.SCHEDULED})
"""C has no word for them."""


class NewConversationC(NewConversation, extra="ignore"):
    """A conversation to add; other fields are ignored."""


class ConversationChangeC(ConversationChange, extra="ignore"):
    """Fields to change; what is left out stays."""


class NewTaskC(Input, extra="ignore"):
    """A task to create; the default handler runs it."""

    title: Title
    description: Description | None = None
    conversations: list[NewConversationC] = Field(default_factory=list, max_length=1000)


class TaskChangeC(Input, extra="ignore"):
    """Fields to change; what is left out stays."""

    title: ChangedTitle = ABSENT
    description: ChangedDescription | None = None
    status: StatusWord = ABSENT


class ConversationC(BaseModel):
    """A conversation in service C's shape."""

    id: int
    task_id: int
    body: Any
    status: ConversationStatus
    created_at: datetime
    updated_at: datetime
    processed_at: datetime | None


class TaskC(BaseModel):
    """A task in service C's shape."""

    id: int
    title: str
    description: str | None
    status: str
    created_at: datetime
    updated_at: datetime
    processed_at: datetime | None
    processing_instance_id: UUID | None
    conversation_count: int
    conversations: list[ConversationC] | None = Field(
        default=None, description="Absent in lists and after a change."
    )


class HealthC(BaseModel):
    """That the service and its database answer."""

    status: str = Field(examples=["healthy"])
    database: str = Field(examples=["up"])


class WorkerC(BaseModel):
    """The worker in the process that answers."""

    instance_id: UUID | None
    running_since: datetime
    current_task: UUID | None = Field(description="One of those that it runs.")
    current_tasks: list[UUID]
    completed: int = Field(description="Since it started.")
    failed: int


class StatusC(BaseModel):
    """How the service is, with worker information."""

    service: str
    version: str
    worker: WorkerC | None = Field(description="Null when the process that answers has no worker.")
    workers: list[dict[str, Any]] = Field(
        description="All worker processes, as in /api/v1/workers."
    )
    cache: str = Field(examples=["configured", "not configured"])


def show_task(t: TaskRow, own: list[ConversationRow] | None = None) -> dict[str, Any]:
    """A task in C's words."""
    shown = {
        "id": t.number,
        "title": t.title,
        "description": t.description,
        "status": Status.PENDING if t.status in SHOWN_AS_PENDING else t.status,
        "created_at": t.created_at,
        "updated_at": t.updated_at,
        "processed_at": t.processed_at,
        "processing_instance_id": t.processing_instance_id,
        "conversation_count": t.conversation_count,
    }
    return (
        shown
        if own is None
        else shown | {"conversations": [show_conversation(c, t.number) for c in own]}
    )


def show_conversation(c: ConversationRow, task_number: int) -> dict[str, Any]:
    """A conversation in C's words."""
    return {
        "id": c.number,
        "task_id": task_number,
        "body": fragment(c.body),
        "status": c.status,
        "created_at": c.created_at,
        "updated_at": c.updated_at,
        "processed_at": c.processed_at,
    }
