"""Lists by number of page, as services D and E have them; by cursor they have no end."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, Field, model_validator

from task_service.api.models import TaskConditions, TaskItem, TaskQuery
from task_service.domain.errors import InvalidFieldError
from task_service.services.context import Context
from task_service.services.counts import summarize
from task_service.services.fields import Limit
from task_service.store.listing import list_tasks, skip_tasks
from task_service.store.tasks import TaskRow

DEEPEST = 10_000
"""Tasks that pages reach: the database must walk past all that come before a page."""


class TaskPageQuery(TaskQuery):
    """The canonical filters, and pages by number beside cursors."""

    page: Annotated[int, Field(ge=1, le=DEEPEST, description="From 1; without `cursor` only.")] | None = None
    page_size: Limit | None = Field(default=None, description="The same as `limit`.")

    @model_validator(mode="after")
    def _one_way(self) -> "TaskPageQuery":
        if self.cursor is not None and self.page is not None:
            raise ValueError("give page or cursor, not both")
        return self

    @property
    def size(self) -> int:
        """Items on a page."""
        return self.page_size or self.limit


class TaskPage(BaseModel):
    """One page of tasks."""

    items: list[TaskItem]
    page: int | None = Field(description="Null on pages by cursor.")
    page_size: int
    total: int | None = Field(description="Of all pages; null with filters other than one of status or priority.")
    pages: int | None = Field(description="Of this size, for `total`.")
    next_cursor: str | None = Field(description="For the next page; null: this is the last one.")


@dataclass(frozen=True, slots=True)
class Found:
    """A page of rows and where it stands."""

    rows: list[TaskRow]
    query: TaskPageQuery
    total: int | None
    next_cursor: str | None

    def with_items(self, show: Callable[[TaskRow], dict[str, Any]]) -> dict[str, Any]:
        """The answer, each row shown in a service's words."""
        size = self.query.size
        return {
            "items": [show(row) for row in self.rows],
            "page": None if self.query.cursor else self.query.page or 1,
            "page_size": size,
            "total": self.total,
            "pages": None if self.total is None else -(-self.total // size),
            "next_cursor": self.next_cursor,
        }


async def read_page(context: Context, query: TaskPageQuery) -> Found:
    """Read one page. Raises InvalidFieldError for a page beyond the first 10,000 tasks and for a bad cursor."""
    size = query.size
    skipped = ((query.page or 1) - 1) * size
    if skipped + size > DEEPEST:
        raise InvalidFieldError("page", f"pages reach the first {DEEPEST} tasks only; go on with next_cursor as cursor")
    where = query.conditions()
    async with context.reading() as connection:
        cursor = await skip_tasks(connection, where, query.sort, skipped) if skipped else query.cursor
        rows: list[TaskRow] = []
        following = None
        if cursor is not None or not skipped:
            rows, following = await list_tasks(connection, where, query.sort, size, cursor)
    return Found(rows, query, await _count(context, query), following)


async def _count(context: Context, query: TaskPageQuery) -> int | None:
    """How many tasks all pages have together, where the statistics tell it."""
    filters = query.model_fields_set & TaskConditions.model_fields.keys()
    if filters - {"status", "priority"} or len(filters) > 1:
        return None
    summary = await summarize(context.engine)
    if "status" in filters:
        return sum(summary.by_status[status] for status in set(query.status))
    if "priority" in filters:
        return sum(summary.by_priority[priority] for priority in set(query.priority))
    return summary.total
