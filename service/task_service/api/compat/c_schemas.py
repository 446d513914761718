"""Schemas of service C's paths (see `c`)."""

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
"""Statuses that service C does not have."""


class NewConversationC(NewConversation, extra="ignore"):
    """A conversation to add. Other fields are ignored."""


class ConversationChangeC(ConversationChange, extra="ignore"):
    """Fields to change. Omitted fields stay unchanged."""


class NewTaskC(Input, extra="ignore"):
    """A task to create. The default handler runs it."""

    title: Title
    description: Description | None = None
    conversations: list[NewConversationC] = Field(default_factory=list, max_length=1000)


class TaskChangeC(Input, extra="ignore"):
    """Fields to change. Omitted fields stay unchanged."""

    title: ChangedTitle = ABSENT
    description: ChangedDescription | None = None
    status: StatusWord = ABSENT


class ConversationC(BaseModel):
    """A conversation in service C's format."""

    id: int
    task_id: int
    body: Any
    status: ConversationStatus
    created_at: datetime
    updated_at: datetime
    processed_at: datetime | None


class TaskC(BaseModel):
    """A task in service C's format."""

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
        default=None, description="Absent in lists and in the response to a change."
    )


class HealthC(BaseModel):
    """Health of the service and its database."""

    status: str = Field(examples=["healthy"])
    database: str = Field(examples=["up"])


class WorkerC(BaseModel):
    """The worker in the process that sends the response."""

    instance_id: UUID | None
    running_since: datetime
    current_task: UUID | None = Field(description="One of the tasks that it runs.")
    current_tasks: list[UUID]
    completed: int = Field(description="Tasks completed since the worker started.")
    failed: int = Field(description="Tasks failed since the worker started.")


class StatusC(BaseModel):
    """Status of the service and its workers."""

    service: str
    version: str
    worker: WorkerC | None = Field(
        description="Null if the process that sends the response has no worker."
    )
    workers: list[dict[str, Any]] = Field(
        description="All worker processes, as in /api/v1/workers."
    )
    cache: str = Field(examples=["configured", "not configured"])


def show_task(t: TaskRow, own: list[ConversationRow] | None = None) -> dict[str, Any]:
    """Convert a task to service C's format."""
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
    """Convert a conversation to service C's format."""
    return {
        "id": c.number,
        "task_id": task_number,
        "body": fragment(c.body),
        "status": c.status,
        "created_at": c.created_at,
        "updated_at": c.updated_at,
        "processed_at": c.processed_at,
    }
