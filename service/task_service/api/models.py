"""What requests and answers look like.

Input models refuse fields that they do not know. Answers are documented by the output models and written without them
(see `answers`; a test holds both together).
"""

from datetime import datetime
from typing import Annotated, Any, Generic, Literal, TypeVar
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator

from task_service.api.fields import (
    Attempts,
    Cursor,
    Description,
    Json,
    Limit,
    Moment,
    Name,
    Person,
    PriorityWord,
    StatusWord,
    Tag,
    Tags,
    TimeoutSeconds,
    Title,
    Why,
    Words,
)
from task_service.domain.priorities import Priority
from task_service.domain.statuses import Status
from task_service.store.listing import Sort, TaskFilter

T = TypeVar("T")
ConversationStatus = Literal["pending", "processed"]
ABSENT: Any = Field(default_factory=lambda: None)
"""The default of a field that may be left out, but not be null."""
CREATABLE = {Status.PENDING, Status.IN_PROGRESS, Status.COMPLETED, Status.FAILED, Status.CANCELLED}


class Input(BaseModel):
    """A request's body or parameters."""

    model_config = ConfigDict(extra="forbid")


def _not_null(value: Any) -> Any:
    if value is None:
        raise ValueError("must not be null")
    return value


Body = Annotated[Json, AfterValidator(_not_null), Field(description="Any JSON but null, at most 256 KiB.")]


class NewConversation(Input):
    """A conversation to add to a task."""

    body: Body = Field(examples=[{"text": "hello"}])


class ConversationChange(Input):
    """Fields to change; those left out stay."""

    body: Body = ABSENT
    status: ConversationStatus = ABSENT


class NewTask(Input):
    """A task to create. With a handler a worker runs it; without one it is for a person."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"title": "Ring Ada", "priority": "high", "tags": ["phone"]},
                {"title": "Answer", "handler": "conversations", "conversations": [{"body": {"text": "hello"}}]},
            ]
        }
    )

    title: Title
    description: Description | None = None
    status: StatusWord = Field(default=Status.PENDING, description="`scheduled` and `processing` cannot be set.")
    priority: PriorityWord = Priority.MEDIUM
    assigned_to: Person | None = None
    due_date: Moment | None = Field(default=None, description="In the future. A time without a zone is UTC.")
    tags: Tags = Field(default_factory=list)
    handler: Name | None = Field(default=None, description="Who runs it; null: a person.", examples=["conversations"])
    payload: Json | None = Field(default=None, description="JSON for the handler, at most 256 KiB.")
    queue: Name = "default"
    run_at: Moment | None = Field(default=None, description="Not before; null or past: now.")
    max_attempts: Attempts | None = Field(default=None, description="Null: the service's default.")
    timeout_seconds: TimeoutSeconds | None = Field(
        default=None, description="For one attempt; null: the handler's own."
    )
    conversations: list[NewConversation] = Field(default_factory=list, max_length=1000)

    @field_validator("status")
    @classmethod
    def _status_can_be_set(cls, status: Status) -> Status:
        if status not in CREATABLE:
            raise ValueError(f"a new task cannot be {status}: give run_at to schedule it; only workers set processing")
        return status


class TaskChange(Input):
    """Fields to change (a JSON merge patch): those left out stay, null clears those that may be empty."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"status": "completed"}, {"assigned_to": None}]})

    title: Title = ABSENT
    description: Description | None = None
    status: StatusWord = ABSENT
    priority: PriorityWord = ABSENT
    assigned_to: Person | None = None
    due_date: Moment | None = None
    tags: Tags | None = Field(default=None, description="Replaces all; null: none.")
    handler: Name | None = None
    payload: Json | None = None
    queue: Name = ABSENT
    run_at: Moment | None = None
    max_attempts: Attempts = ABSENT
    timeout_seconds: TimeoutSeconds | None = None
    reason: Why | None = Field(default=None, description="Why, for the history.")

    def columns(self) -> dict[str, Any]:
        """The given fields as columns of `tasks`; status and reason apart."""
        given = {name: getattr(self, name) for name in self.model_fields_set - {"status", "reason"}}
        if "priority" in given:
            given["priority"] = self.priority.rank
        if "tags" in given:
            given["tags"] = self.tags or []
        return given


class Because(Input):
    """Why something is done, for the history."""

    reason: Why | None = None


class PageQuery(Input):
    """Which page of a list."""

    limit: Limit = 50
    cursor: Cursor | None = None


class TaskQuery(PageQuery):
    """Filters that all hold. Those given more than once: any of the statuses or priorities, all of the tags."""

    status: list[StatusWord] = Field(default_factory=list)
    priority: list[PriorityWord] = Field(default_factory=list)
    assigned_to: Words | None = None
    tag: list[Tag] = Field(default_factory=list, max_length=10)
    handler: Name | None = None
    queue: Name | None = None
    created_after: Moment | None = Field(default=None, description="Created then or later.")
    created_before: Moment | None = Field(default=None, description="Created before then.")
    due_after: Moment | None = Field(default=None, description="Due then or later.")
    due_before: Moment | None = Field(default=None, description="Due before then.")
    text: Words | None = Field(default=None, description="In the title or description, without regard to case.")
    sort: Sort = Field(
        default="-created_at", description="`-priority` puts the most urgent first; no due date comes last."
    )

    def conditions(self) -> TaskFilter:
        """The filters for the store."""
        return TaskFilter(
            statuses=tuple(dict.fromkeys(self.status)),
            priorities=tuple(dict.fromkeys(self.priority)),
            tags=tuple(self.tag),
            **self.model_dump(include=set(TaskFilter.__dataclass_fields__) - {"statuses", "priorities", "tags"}),
        )


class TaskItem(BaseModel):
    """A task as lists show it."""

    id: UUID
    title: str
    description: str | None
    status: Status
    priority: Priority
    assigned_to: str | None
    due_date: datetime | None
    tags: list[str]
    handler: str | None
    queue: str
    run_at: datetime | None = Field(description="When it may run; of a waiting task, its next attempt.")
    max_attempts: int
    timeout_seconds: int | None
    attempt: int = Field(description="The present or last attempt; 0 before the first.")
    error: str | None = Field(description="What the last attempt that failed says.")
    created_by: str | None
    created_at: datetime
    updated_at: datetime
    processed_at: datetime | None = Field(description="When it reached its present end.")
    processing_instance_id: UUID | None = Field(description="The worker that holds it, or ended it.")
    cancel_requested_at: datetime | None = Field(description="A worker holds it and was asked to cancel it.")
    conversation_count: int
    version: int


class Task(TaskItem):
    """A task."""

    payload: Any
    result: Any = Field(description="What the handler returned.")


class Conversation(BaseModel):
    """A conversation of a task."""

    id: UUID
    task_id: UUID
    body: Any
    status: ConversationStatus
    created_at: datetime
    updated_at: datetime
    processed_at: datetime | None


class HistoryEvent(BaseModel):
    """A change by a person (`change`) or the end of a worker's attempt (`run`)."""

    at: datetime
    kind: Literal["change", "run"]
    previous_status: str | None
    new_status: str
    by: str | None = Field(description="Who changed it; of a run, the worker's id.")
    reason: str | None
    fields: list[str] = Field(description="Which fields were changed.")


class Run(BaseModel):
    """A finished attempt of a worker."""

    fence: int = Field(description="Rises with every claim of the task.")
    attempt: int
    worker_id: UUID | None
    started_at: datetime | None
    finished_at: datetime
    outcome: str
    reason: str | None
    final: bool = Field(description="Whether it decides the task's status.")
    result: Any
    error: str | None


class Page(BaseModel, Generic[T]):
    """One page of a list."""

    items: list[T]
    next_cursor: str | None = Field(description="For the next page; null: this is the last one.")
