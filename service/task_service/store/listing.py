"""The list of tasks: sorts and keyset pages. How the tasks of a page are found: `store.finding`.

The page's ids are found first; only they go through the view, in the same statement.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import Row, Select, literal_column, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from task_service.domain.errors import InvalidFieldError
from task_service.store.cursors import NOT_OURS, decode_cursor, encode_cursor
from task_service.store.finding import Order, Position, TaskFilter, gathered, is_served, plain, steps_of, walked
from task_service.store.tables import task_view, tasks
from task_service.store.tasks import LIST_COLUMNS, TaskRow, task_row

Sort = Literal[
    "created_at", "-created_at", "due_date", "-due_date", "priority", "-priority", "updated_at", "-updated_at"
]


def order_of(sort: Sort) -> Order:
    """Read a sort such as `-due_date`."""
    name = sort.lstrip("-")
    descending = sort.startswith("-") != (name == "priority")
    return Order(name, tasks.c[name], int if name == "priority" else datetime, descending, nullable=name == "due_date")


async def list_tasks(
    connection: AsyncConnection, where: TaskFilter, sort: Sort, limit: int, cursor: str | None = None
) -> tuple[list[TaskRow], str | None]:
    """One page, and the cursor of the next one. Raises InvalidFieldError for a bad cursor.

    Tasks without a due date come last when it is the sort key, in either direction: as a second segment.
    """
    order = order_of(sort)
    position = read_position(order, sort, cursor)
    found: list[TaskRow] = []
    for segment in range(position.segment, _segments(where, order)):
        start = position if segment == position.segment else Position(segment, None, None)
        rows = await _find(connection, where, order, start, limit + 1 - len(found), shown)
        found += [task_row(row[: len(LIST_COLUMNS)]) for row in rows]
        if len(found) > limit:
            break
    if len(found) <= limit:
        return found, None
    last = found[limit - 1]
    key = getattr(last, order.name)
    return found[:limit], encode_cursor(sort, int(order.nullable and key is None), key, last.id)


async def skip_tasks(connection: AsyncConnection, where: TaskFilter, sort: Sort, skipped: int) -> str | None:
    """The cursor of the page that begins after so many tasks, at least one; None when there are not as many."""
    order = order_of(sort)
    for segment in range(_segments(where, order)):
        found = await _find(connection, where, order, Position(segment, None, None), skipped)
        if len(found) == skipped:
            return encode_cursor(sort, segment, None if segment else found[-1].key, found[-1].id)
        skipped -= len(found)
    return None


def read_position(order: Order, sort: Sort, cursor: str | None) -> Position:
    """Where to go on; InvalidFieldError when the cursor is not of this sort."""
    if cursor is None:
        return Position(0, None, None)
    for segment, kind in enumerate((order.kind, None) if order.nullable else (order.kind,)):
        try:
            given, at, key, task_id = decode_cursor(cursor, str, int, kind, UUID)
        except InvalidFieldError:
            continue
        if (given, at) == (sort, segment):
            return Position(segment, key, task_id)
    raise InvalidFieldError("cursor", NOT_OURS)


async def _find(
    connection: AsyncConnection,
    where: TaskFilter,
    order: Order,
    start: Position,
    limit: int,
    shape: Callable[[Select[Any], Order], Select[Any]] | None = None,
) -> Sequence[Row[Any]]:
    """The first tasks from a position on: ids and keys, or what `shape` makes of the statement that finds them."""

    async def run(statement: Select[Any]) -> Sequence[Row[Any]]:
        return (await connection.execute(shape(statement, order) if shape else statement)).all()

    if is_served(where, order):
        return await run(plain(where, order, start, limit))
    for walks, bound in steps_of(where):
        if walks and bound is not None:
            found = await run(walked(where, order, start, limit, bound))
            enough = len(found) == limit
        else:
            found = await run(gathered(where, order, start, limit, bound))
            enough = not found or bound is None or found[0].total <= bound
        if enough:
            return found
    raise AssertionError("the last step finds them all")


def _segments(where: TaskFilter, order: Order) -> int:
    """How many segments the order has; a range of due dates leaves out tasks without one."""
    return 2 if order.nullable and not (where.due_after or where.due_before) else 1


def page_statement(where: TaskFilter, order: Order, start: Position, limit: int) -> Select[Any]:
    """The statement of a page for a filter that `is_served`."""
    return shown(plain(where, order, start, limit), order)


def shown(ids: Select[Any], order: Order) -> Select[Any]:
    """The statement that finds ids, with each task as a list shows it, row by row through the view."""
    page = ids.cte("page").prefix_with("MATERIALIZED")
    # OFFSET 0 keeps the planner from joining the whole view first.
    row = select(*LIST_COLUMNS).where(task_view.c.id == page.c.id).offset(literal_column("0")).lateral("row")
    total = [page.c.total] if "total" in page.c else []
    together = select(*row.c, *total).select_from(page.join(row, text("true")))
    return together.order_by(*order.directions(page.c.key, page.c.id))
