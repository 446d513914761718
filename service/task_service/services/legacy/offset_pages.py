"""Tasks by number of page, as services D and E have them; by cursor they have no end."""

from dataclasses import dataclass

from task_service.domain.errors import InvalidFieldError
from task_service.services.context import Context
from task_service.services.statistics import summarize
from task_service.store.task_lists.filters import Sort, TaskFilter
from task_service.store.task_lists.listing import list_tasks, skip_tasks
from task_service.store.tasks import TaskRow

DEEPEST = 10_000
"""Tasks that pages reach: the database must walk past all that come before a page."""


@dataclass(frozen=True, slots=True)
class PageWanted:
    """Which tasks, in which order, and which page: the one of a number (from 1), or the one after a cursor."""

    where: TaskFilter
    sort: Sort
    size: int
    page: int = 1
    cursor: str | None = None


@dataclass(frozen=True, slots=True)
class PageFound:
    """A page of rows. `total` counts all pages, where statistics tell it: else it is None."""

    rows: list[TaskRow]
    next_cursor: str | None
    total: int | None


async def read_page(context: Context, wanted: PageWanted) -> PageFound:
    """Read one page. Raises InvalidFieldError for a page beyond the first 10,000 tasks and for a bad cursor."""
    where, sort, size = wanted.where, wanted.sort, wanted.size
    skipped = 0 if wanted.cursor is not None else (wanted.page - 1) * size
    if skipped + size > DEEPEST:
        raise InvalidFieldError(
            "page", f"pages reach the first {DEEPEST} tasks only; go on with next_cursor as cursor"
        )
    async with context.reading() as connection:
        cursor = await skip_tasks(connection, where, sort, skipped) if skipped else wanted.cursor
        rows: list[TaskRow] = []
        following = None
        if cursor is not None or not skipped:
            rows, following = await list_tasks(connection, where, sort, size, cursor)
    return PageFound(rows, following, await _count(context, where))


async def _count(context: Context, where: TaskFilter) -> int | None:
    """How many tasks fulfil the filter, when it is none or one of status or priority."""
    given = where.given()
    if given not in (set(), {"statuses"}, {"priorities"}):
        return None
    summary = await summarize(context.engine)
    if where.statuses:
        return sum(summary.by_status[status] for status in where.statuses)
    if where.priorities:
        return sum(summary.by_priority[priority] for priority in where.priorities)
    return summary.total
