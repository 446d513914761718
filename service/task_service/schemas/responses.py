"""What answers look like, and which parameters lists take.

Answers are documented by these models and written without them (see `answers`; a test holds both
together).
"""

from datetime import datetime
from typing import Any, Generic, Literal, TypeVar
from uuid import UUID

from pydantic import BaseModel, Field

from task_service.domain.priorities import Priority
from task_service.domain.statuses import Status
from task_service.schemas.tasks import ConversationStatus, Input
from task_service.schemas.types import (
    Cursor,
    Limit,
    Moment,
    Name,
    PriorityWord,
    StatusWord,
    Tag,
    Words,
)
from task_service.store.task_lists.filters import Sort, TaskFilter

T = TypeVar("T")


class PageQuery(Input):
    """Which page of a list."""

    limit: Limit = 50
    cursor: Cursor | None = None


class TaskConditions(Input):
    """Filters that all hold. Those given more than once: any of the statuses or priorities, all of
    the tags.
    """

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
    text: Words | None = Field(
        default=None,
        description="Words that must all occur in title or description, in any order and whatever their case. Each is "
        "found as a whole word, as it is written (no stems, accents count); `tele*` finds all that begin so. Words end "
        "at blanks and punctuation. A text without any word finds nothing.",
    )

    def conditions(self) -> TaskFilter:
        """The filters for the store."""
        return TaskFilter(
            statuses=tuple(dict.fromkeys(self.status)),
            priorities=tuple(dict.fromkeys(self.priority)),
            tags=tuple(self.tag),
            **self.model_dump(
                include=set(TaskFilter.__dataclass_fields__) - {"statuses", "priorities", "tags"}
            ),
        )


class TaskQuery(TaskConditions, PageQuery):
    """Which tasks, in which order, and which page of them."""

    sort: Sort = Field(
        default="-created_at",
        description="`-priority` puts the most urgent first; no due date comes last.",
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
    run_at: datetime | None = Field(
        description="When it may run; of a waiting task, its next attempt."
    )
    max_attempts: int
    timeout_seconds: int | None
    limit_key: str | None = Field(
        description="Tasks with this key share limits, and take turns with those of others."
    )
    attempt: int = Field(description="The present or last attempt; 0 before the first.")
    error: str | None = Field(description="What the last attempt that failed says.")
    created_by: str | None
    created_at: datetime
    updated_at: datetime
    processed_at: datetime | None = Field(description="When it reached its present end.")
    processing_instance_id: UUID | None = Field(
        description="The worker that holds it, or ended it."
    )
    cancel_requested_at: datetime | None = Field(
        description="A worker holds it and was asked to cancel it."
    )
    conversation_count: int
    version: int


class Progress(BaseModel):
    """How far a run is, as its handler said last."""

    fraction: float = Field(ge=0, le=1)
    note: str | None
    at: datetime


class Task(TaskItem):
    """A task."""

    waits_for: list[UUID] = Field(
        description="Of the tasks that it needs, those that have not ended."
    )
    progress: Progress | None = Field(description="Of a task that runs, if its handler says so.")
    payload: Any
    result: Any = Field(description="What the handler returned.")


def present(model: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    """OpenAPI's description of the answer to a task that was there already."""
    return {
        200: {"model": model, "description": "The task that holds the unique key; none was made"}
    }


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
