"""Lists by number of page in the shape of services D and E."""

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import Response
from pydantic import BaseModel, Field, model_validator

from task_service.api.answers import answer
from task_service.schemas.responses import TaskItem, TaskQuery
from task_service.schemas.types import Limit
from task_service.services.legacy.offset_pages import MAX_OFFSET, PageRequest, read_page
from task_service.services.transactions import TransactionManager
from task_service.store.tasks import TaskRow


class TaskPageQuery(TaskQuery):
    """The canonical filters, and pages by number beside cursors."""

    page: (
        Annotated[int, Field(ge=1, le=MAX_OFFSET, description="From 1; without `cursor` only.")]
        | None
    ) = None
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


class PageFields(BaseModel):
    """Where a page stands among the others."""

    page: int | None = Field(description="Null on pages by cursor.")
    page_size: int
    total: int | None = Field(
        description="Of all pages; null with filters other than one of status or priority."
    )
    pages: int | None = Field(description="Of this size, for `total`.")
    next_cursor: str | None = Field(description="For the next page; null: this is the last one.")


class TaskPage(PageFields):
    """One page of tasks."""

    items: list[TaskItem]


async def page_answer(
    transactions: TransactionManager,
    query: TaskPageQuery,
    show: Callable[[TaskRow], dict[str, Any]],
) -> Response:
    """The page that is asked for, each task shown in a service's words."""
    wanted = PageRequest(query.conditions(), query.sort, query.size, query.page or 1, query.cursor)
    found = await read_page(transactions, wanted)
    return answer(
        {
            "items": [show(task) for task in found.rows],
            "page": None if query.cursor is not None else wanted.page,
            "page_size": wanted.size,
            "total": found.total,
            "pages": None if found.total is None else -(-found.total // wanted.size),
            "next_cursor": found.next_cursor,
        }
    )
