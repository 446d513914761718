"""The list of tasks: keyset pages. How the tasks of a page are found: `store.finding`.

The page's ids are found first; only they go through the view, in the same statement. Statements are
made and compiled once for each shape of filter, and go to the driver itself: to make one takes
SQLAlchemy longer than it takes to run.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple
from uuid import UUID

from asyncpg import Record
from sqlalchemy import Select, literal_column, select, text
from sqlalchemy.dialects.postgresql.asyncpg import dialect
from sqlalchemy.ext.asyncio import AsyncConnection

from task_service.domain.errors import InvalidFieldError
from task_service.domain.priorities import Priority
from task_service.store.cursors import NOT_OURS, decode_cursor, encode_cursor
from task_service.store.database import raw
from task_service.store.tables import task_view
from task_service.store.task_lists.filters import (
    START,
    Order,
    Position,
    Sort,
    TaskFilter,
    is_served,
    order_of,
)
from task_service.store.task_lists.plans import At, Step, gathered, plain, steps_of, walked
from task_service.store.task_lists.text_search import query_of
from task_service.store.tasks import LIST_COLUMNS, TaskRow, task_row
from task_service.telemetry.helpers import traced_statement

WIDTH = len(LIST_COLUMNS)
DIALECT = dialect()  # type: ignore[no-untyped-call]
SHAPES = 1024


class Statement(NamedTuple):
    """SQL for the driver, and the names of its parameters in their order."""

    sql: str
    names: tuple[str, ...]


async def list_tasks(
    connection: AsyncConnection,
    where: TaskFilter,
    sort: Sort,
    limit: int,
    cursor: str | None = None,
) -> tuple[list[TaskRow], str | None]:
    """One page, and the cursor of the next one. Raises InvalidFieldError for a bad cursor.

    Tasks without a due date come last when it is the sort key, in either direction: as a second
    segment.
    """
    order = order_of(sort)
    position = read_position(order, sort, cursor)
    found: list[TaskRow] = []
    for segment in range(position.segment, _segments(where, order)):
        start = position if segment == position.segment else Position(segment, None, None)
        rows = await _find(connection, where, sort, start, limit + 1 - len(found), shows=True)
        found += [task_row(row[:WIDTH]) for row in rows]
        if len(found) > limit:
            break
    if len(found) <= limit:
        return found, None
    last = found[limit - 1]
    key = getattr(last, order.name)
    return found[:limit], encode_cursor(sort, int(order.nullable and key is None), key, last.id)


async def skip_tasks(
    connection: AsyncConnection, where: TaskFilter, sort: Sort, skipped: int
) -> str | None:
    """The cursor of the page that begins after so many tasks, at least one; None when there are not
    as many.
    """
    order = order_of(sort)
    for segment in range(_segments(where, order)):
        found = await _find(
            connection, where, sort, Position(segment, None, None), skipped, shows=False
        )
        if len(found) == skipped:
            return encode_cursor(
                sort, segment, None if segment else found[-1]["key"], found[-1]["id"]
            )
        skipped -= len(found)
    return None


def read_position(order: Order, sort: Sort, cursor: str | None) -> Position:
    """Where to go on; InvalidFieldError when the cursor is not of this sort."""
    if cursor is None:
        return START
    for segment, kind in enumerate((order.kind, None) if order.nullable else (order.kind,)):
        try:
            given, at, key, task_id = decode_cursor(cursor, str, int, kind, UUID)
        except InvalidFieldError:
            continue
        if kind is int and not 0 <= key < len(Priority):
            continue
        if (given, at) == (sort, segment):
            return Position(segment, key, task_id)
    raise InvalidFieldError("cursor", NOT_OURS)


async def _find(
    connection: AsyncConnection,
    where: TaskFilter,
    sort: Sort,
    start: Position,
    limit: int,
    *,
    shows: bool,
) -> Sequence[Record]:
    """The first tasks from a position on: ids and keys, or as a list shows them; of gathered ones
    also the `total`.
    """
    query = None if where.text is None else query_of(where.text)
    if where.text is not None and query is None:
        return []  # no word at all
    driver = await raw(connection)
    values = {"text": query, "most": limit, "key": start.key, "id": start.id}
    at, shape = At(start.segment, start.id is not None), where.shape()

    async def run(step: Step | None) -> Sequence[Record]:
        sql, names = statement_of(shape, sort, at, step, shows=shows)
        with traced_statement(sql):
            rows: Sequence[Record] = await driver.fetch(
                sql, *[values[n] if n in values else getattr(where, n) for n in names]
            )
        return rows

    if is_served(where, order_of(sort)):
        return await run(None)
    for step in steps_of(where, order_of(sort)):
        found = await run(step)
        total = max((row["total"] for row in found), default=0) if not step.walks else 0
        found = [row for row in found if row["id"] is not None]
        enough = len(found) == limit if step.walks else step.bound is None or total <= step.bound
        if enough:
            return found
    raise AssertionError("the last step finds them all")


def _segments(where: TaskFilter, order: Order) -> int:
    """How many segments the order has; a range of due dates leaves out tasks without one."""
    return 2 if order.nullable and not (where.due_after or where.due_before) else 1


@lru_cache(SHAPES)
def statement_of(
    shape: TaskFilter, sort: Sort, at: At, step: Step | None, *, shows: bool = True
) -> Statement:
    """The statement of a step for a shape of filter, None: for one that `is_served`; with ids and
    keys, or `shown`.
    """
    order = order_of(sort)
    ids = (
        plain(shape, order, at)
        if step is None
        else (walked if step.walks else gathered)(shape, order, at, step)
    )
    compiled: Any = (shown(ids, order) if shows else ids).compile(dialect=DIALECT)
    return Statement(compiled.string, tuple(compiled.positiontup))


def page_statement(where: TaskFilter, sort: Sort) -> Select[Any]:
    """The first page for a filter that `is_served`, as SQLAlchemy's statement."""
    order = order_of(sort)
    return shown(plain(where.shape(), order, At(0, begins=False)), order)


def shown(ids: Select[Any], order: Order) -> Select[Any]:
    """The statement that finds ids, with each task as a list shows it, row by row through the view."""
    page = ids.cte("page").prefix_with("MATERIALIZED")
    # OFFSET 0 keeps the planner from joining the whole view first.
    row = (
        select(*LIST_COLUMNS)
        .where(task_view.c.id == page.c.id)
        .offset(literal_column("0"))
        .lateral("row")
    )
    total = [page.c.total] if "total" in page.c else []
    together = select(*row.c, *total).select_from(page.outerjoin(row, text("true")))
    return together.order_by(*order.directions(page.c.key, page.c.id))
