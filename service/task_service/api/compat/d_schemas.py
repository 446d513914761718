"""Schemas of service D's paths (see `d`)."""

import datetime as dt
from typing import Annotated, Any
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from task_service.api.compat.manual_tasks import NewTaskForm, TaskChangeForm
from task_service.api.compat.offset_lists import PageFields, TaskPageQuery
from task_service.api.routes.csv import ImportReport
from task_service.domain.statuses import OPEN, Status
from task_service.schemas.responses import PageQuery
from task_service.schemas.tasks import ABSENT
from task_service.schemas.types import Day, Limit, StatusWord
from task_service.store.audit import AuditRow
from task_service.store.daily_log import EntryRow
from task_service.store.tasks import TaskRow

ACTIVE = "active"


def _is_active(value: Any) -> bool:
    return isinstance(value, str) and value.strip().lower() == ACTIVE


StatusD = Annotated[
    StatusWord, BeforeValidator(lambda value: Status.PENDING if _is_active(value) else value)
]


class NewTaskD(NewTaskForm):
    """A task to create; `active` means `pending`. It is a manual task unless it names a handler.

    Other fields are ignored.
    """

    model_config = ConfigDict(json_schema_extra={"examples": [{"title": "Ring Ada"}]})

    status: StatusD = Status.PENDING


class TaskChangeD(TaskChangeForm):
    """Fields to change. Omitted fields stay unchanged.

    `active` reopens a task that has ended and does not change an open one.
    """

    model_config = ConfigDict(json_schema_extra={"examples": [{"title": "Ring Bob"}]})

    status: StatusD = ABSENT


class ListQueryD(TaskPageQuery):
    """A page of tasks, or with `date` the daily log of that day. Unknown parameters are ignored."""

    model_config = ConfigDict(extra="ignore")

    date: Day | None = Field(
        default=None, description="Return the daily log of this day, as one list."
    )
    per_page: Limit | None = Field(default=None, description="Same as `page_size`.")

    @field_validator("status", mode="before")
    @classmethod
    def _open_statuses(cls, words: Any) -> Any:
        """Replace `active` by all open statuses."""
        if not isinstance(words, list):
            return words
        return [
            word for given in words for word in (sorted(OPEN) if _is_active(given) else [given])
        ]

    @property
    def size(self) -> int:
        """Number of items on a page."""
        return self.page_size or self.per_page or self.limit


class TaskD(BaseModel):
    """A task in service D's format."""

    id: int
    title: str
    status: str = Field(examples=["active", "completed"])
    created_by: str | None


class TaskPageD(PageFields):
    """One page of tasks in service D's format."""

    items: list[TaskD]


class EntryD(BaseModel):
    """A task as the daily log recorded it."""

    id: int = Field(description="The entry's number, for GET /task/{task_id}.")
    title: str
    status: str
    date: dt.date


class DeletedD(BaseModel):
    """Confirmation that a task was deleted."""

    message: str = Field(examples=["Task soft deleted successfully"])


class ImportedD(ImportReport):
    """Result of an import."""

    message: str = Field(examples=["2 tasks were imported"])


class AuditQueryD(PageQuery):
    """Page of the audit log to return. Unknown parameters are ignored."""

    model_config = ConfigDict(extra="ignore")


class AuditLineD(BaseModel):
    """A change of a task in service D's format."""

    task_id: int | UUID = Field(
        description="The task's number; the UUID if the task was deleted permanently."
    )
    previous_status: str | None
    new_status: str
    modified_by: str | None
    timestamp: dt.datetime


def status_of_d(status: str | None) -> str | None:
    """Convert a status to service D's name for it.

    >>> status_of_d("in_progress"), status_of_d("completed"), status_of_d(None)
    ('active', 'completed', None)
    """
    return ACTIVE if status in OPEN else status


def show_task(t: TaskRow) -> dict[str, Any]:
    """Convert a task to service D's format."""
    return {
        "id": t.number,
        "title": t.title,
        "status": status_of_d(t.status),
        "created_by": t.created_by,
    }


def show_entry(e: EntryRow) -> dict[str, Any]:
    """Convert an entry of the daily log to service D's format."""
    return {"id": e.number, "title": e.title, "status": status_of_d(e.status), "date": e.date}


def show_change(row: AuditRow, number: int | None) -> dict[str, Any]:
    """Convert an entry of the audit log to service D's format."""
    return {
        "task_id": row.task_id if number is None else number,
        "previous_status": status_of_d(row.previous_status),
        "new_status": status_of_d(row.new_status),
        "modified_by": row.modified_by,
        "timestamp": row.timestamp,
    }
