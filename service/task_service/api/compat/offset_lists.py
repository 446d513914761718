"""Lists by page number in the format of services D and E."""

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
    """Filters of `/api/v1/tasks`, with page numbers in addition to cursors."""

    page: (
        Annotated[
            int, Field(ge=1, le=MAX_OFFSET, description="Page number, from 1. Not with `cursor`.")
        ]
        | None
    ) = None
    page_size: Limit | None = Field(default=None, description="Same as `limit`.")

    @model_validator(mode="after")
    def _one_way(self) -> "TaskPageQuery":
        if self.cursor is not None and self.page is not None:
            raise ValueError("use either `page` or `cursor`, not both")
        return self

    @property
    def size(self) -> int:
        """Number of items on a page."""
        return self.page_size or self.limit


class PageFields(BaseModel):
    """Position of a page in the list."""

    page: int | None = Field(description="Null if the request had a `cursor`.")
    page_size: int
    total: int | None = Field(
        description=(
            "Number of tasks on all pages; null with a filter other than `status` alone or "
            "`priority` alone."
        )
    )
    pages: int | None = Field(description="Number of pages of this size; null without `total`.")
    next_cursor: str | None = Field(description="Cursor of the next page; null on the last page.")


class TaskPage(PageFields):
    """One page of tasks."""

    items: list[TaskItem]


async def page_answer(
    transactions: TransactionManager,
    query: TaskPageQuery,
    show: Callable[[TaskRow], dict[str, Any]],
) -> Response:
    """Return the requested page. `show` converts each task to the service's format."""
    request = PageRequest(query.conditions(), query.sort, query.size, query.page or 1, query.cursor)
    page = await read_page(transactions, request)
    return answer(
        {
            "items": [show(task) for task in page.rows],
            "page": None if query.cursor is not None else request.page,
            "page_size": request.size,
            "total": page.total,
            "pages": None if page.total is None else -(-page.total // request.size),
            "next_cursor": page.next_cursor,
        }
    )
