"""Service D's shapes and words (see `d`)."""

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
    """A task to create; `active` is `pending`. For a person unless it names a handler; other fields are ignored."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"title": "Ring Ada"}]})

    status: StatusD = Status.PENDING


class TaskChangeD(TaskChangeForm):
    """Fields to change; those left out stay. `active` opens a task that has ended, and leaves an open one as it is."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"title": "Ring Bob"}]})

    status: StatusD = ABSENT


class ListQueryD(TaskPageQuery):
    """A page of tasks, or with `date` the whole daily log of that day. Parameters that are unknown are ignored."""

    model_config = ConfigDict(extra="ignore")

    date: Day | None = Field(default=None, description="The daily log of this day, as one list.")
    per_page: Limit | None = Field(default=None, description="The same as `page_size`.")

    @field_validator("status", mode="before")
    @classmethod
    def _open_statuses(cls, words: Any) -> Any:
        """`active` stands for every open status."""
        if not isinstance(words, list):
            return words
        return [
            word for given in words for word in (sorted(OPEN) if _is_active(given) else [given])
        ]

    @property
    def size(self) -> int:
        """Items on a page."""
        return self.page_size or self.per_page or self.limit


class TaskD(BaseModel):
    """A task in service D's shape."""

    id: int
    title: str
    status: str = Field(examples=["active", "completed"])
    created_by: str | None


class TaskPageD(PageFields):
    """One page of tasks in service D's shape."""

    items: list[TaskD]


class EntryD(BaseModel):
    """A task as the daily log has it."""

    id: int = Field(description="The entry's number, for GET /task/{task_id}.")
    title: str
    status: str
    date: dt.date


class DeletedD(BaseModel):
    """That a task is deleted."""

    message: str = Field(examples=["Task soft deleted successfully"])


class ImportedD(ImportReport):
    """What an import did."""

    message: str = Field(examples=["2 tasks were imported"])


class AuditQueryD(PageQuery):
    """Which page of the audit log. Parameters that are unknown are ignored."""

    model_config = ConfigDict(extra="ignore")


class AuditLineD(BaseModel):
    """A change of a task in service D's shape."""

    task_id: int | UUID = Field(
        description="The task's number; the UUID of one that was deleted for good."
    )
    previous_status: str | None
    new_status: str
    modified_by: str | None
    timestamp: dt.datetime


def status_word(status: str | None) -> str | None:
    """What D calls a status.

    >>> status_word("in_progress"), status_word("completed"), status_word(None)
    ('active', 'completed', None)
    """
    return ACTIVE if status in OPEN else status


def show_task(t: TaskRow) -> dict[str, Any]:
    """A task in D's words."""
    return {
        "id": t.number,
        "title": t.title,
        "status": status_word(t.status),
        "created_by": t.created_by,
    }


def show_entry(e: EntryRow) -> dict[str, Any]:
    """An entry of the daily log in D's words."""
    return {"id": e.number, "title": e.title, "status": status_word(e.status), "date": e.date}


def show_change(row: AuditRow, number: int | None) -> dict[str, Any]:
    """A line of the audit log in D's words."""
    return {
        "task_id": row.task_id if number is None else number,
        "previous_status": status_word(row.previous_status),
        "new_status": status_word(row.new_status),
        "modified_by": row.modified_by,
        "timestamp": row.timestamp,
    }
