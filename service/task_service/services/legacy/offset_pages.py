"""Offset paging, as in services D and E. Cursors have no limit."""

from dataclasses import dataclass

from task_service.domain.errors import InvalidFieldError
from task_service.services.statistics import summarize
from task_service.services.transactions import TransactionManager
from task_service.store.task_lists.filters import Sort, TaskFilter
from task_service.store.task_lists.listing import list_tasks, skip_tasks
from task_service.store.tasks import TaskRow

MAX_OFFSET = 10_000
"""Number of tasks that offset pages reach: the database must skip all tasks before a page."""


@dataclass(frozen=True, slots=True)
class PageRequest:
    """The filter, the order, and the page: a page number from 1, or a cursor."""

    where: TaskFilter
    sort: Sort
    size: int
    page: int = 1
    cursor: str | None = None


@dataclass(frozen=True, slots=True)
class TaskPage:
    """A page of rows. `total` counts all matching tasks if the statistics contain it, else None."""

    rows: list[TaskRow]
    next_cursor: str | None
    total: int | None


async def read_page(transactions: TransactionManager, wanted: PageRequest) -> TaskPage:
    """Read a page. Raises InvalidFieldError beyond 10,000 tasks or for an invalid cursor."""
    where, sort, size = wanted.where, wanted.sort, wanted.size
    skipped = 0 if wanted.cursor is not None else (wanted.page - 1) * size
    if skipped + size > MAX_OFFSET:
        raise InvalidFieldError(
            "page",
            f"pages reach the first {MAX_OFFSET} tasks only; continue with next_cursor as cursor",
        )
    async with transactions.read() as connection:
        cursor = await skip_tasks(connection, where, sort, skipped) if skipped else wanted.cursor
        rows: list[TaskRow] = []
        following = None
        if cursor is not None or not skipped:
            rows, following = await list_tasks(connection, where, sort, size, cursor)
    return TaskPage(rows, following, await _count(transactions, where))


async def _count(transactions: TransactionManager, where: TaskFilter) -> int | None:
    """Count matching tasks if the filter is empty or only by status or only by priority."""
    conditions = where.given()
    if conditions not in (set(), {"statuses"}, {"priorities"}):
        return None
    summary = await summarize(transactions)
    if where.statuses:
        return sum(summary.by_status[status] for status in where.statuses)
    if where.priorities:
        return sum(summary.by_priority[priority] for priority in where.priorities)
    return summary.total
