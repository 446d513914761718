"""The list of tasks: filters, order and keyset pages.

A status is derived (see `task_view`), so a filter by status is a UNION ALL over what it derives from, each part with an
index of its own: the queue, final runs, and statuses that people set. The page's ids are found first; only they go
through the view.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Select,
    and_,
    false,
    func,
    literal_column,
    or_,
    select,
    text,
    tuple_,
    union_all,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from task_service.domain.errors import InvalidFieldError
from task_service.domain.outcomes import STATUS_OF_OUTCOME
from task_service.domain.priorities import Priority
from task_service.domain.statuses import Status
from task_service.store.cursors import NOT_OURS, decode_cursor, encode_cursor
from task_service.store.tables import queue, runs, task_view, tasks
from task_service.store.tasks import LIST_COLUMNS, TaskRow, task_row

Sort = Literal[
    "created_at", "-created_at", "due_date", "-due_date", "priority", "-priority", "updated_at", "-updated_at"
]


@dataclass(frozen=True, slots=True)
class TaskFilter:
    """Conditions that all hold; an empty one does not filter. Ranges take in their beginning, not their end."""

    statuses: tuple[Status, ...] = ()
    priorities: tuple[Priority, ...] = ()
    assigned_to: str | None = None
    tags: tuple[str, ...] = ()
    handler: str | None = None
    queue: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    due_after: datetime | None = None
    due_before: datetime | None = None
    text: str | None = None


@dataclass(frozen=True, slots=True)
class Order:
    """A sort key and its direction. Priorities sort by urgency; their ranks (0 is urgent) run the other way."""

    name: str
    column: ColumnElement[Any]
    kind: type
    descending: bool
    nullable: bool = False


@dataclass(frozen=True, slots=True)
class Position:
    """The last row of a page: its segment (see `segments`), sort key and id."""

    segment: int
    key: Any
    id: UUID | None


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
    for segment in range(position.segment, 2 if order.nullable else 1):
        start = position if segment == position.segment else Position(segment, None, None)
        statement = page_statement(where, order, start, limit + 1 - len(found))
        found += [task_row(row) for row in await connection.execute(statement)]
        if len(found) > limit:
            break
    if len(found) <= limit:
        return found, None
    last = found[limit - 1]
    key = getattr(last, order.name)
    return found[:limit], encode_cursor(sort, int(order.nullable and key is None), key, last.id)


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


def page_statement(where: TaskFilter, order: Order, start: Position, limit: int) -> Select[Any]:
    """The statement of one page: ids by index first, then those rows through the view, one by one."""
    null_segment = start.segment == 1
    branches = [_page(b, order, start, limit) for b in _branches(where, order, null_segment=null_segment)]
    if len(branches) == 1:
        page = branches[0].cte("page").prefix_with("MATERIALIZED")
    else:
        parts = union_all(*(select(b.subquery()) for b in branches)).subquery("parts")
        page = (
            select(parts)
            .order_by(*_directions(order, parts.c.key, parts.c.id))
            .limit(limit)
            .cte("page")
            .prefix_with("MATERIALIZED")
        )
    # OFFSET 0 keeps the planner from joining the whole view first.
    row = select(*LIST_COLUMNS).where(task_view.c.id == page.c.id).offset(literal_column("0")).lateral("row")
    return select(*row.c).select_from(page.join(row, text("true"))).order_by(*_directions(order, page.c.key, page.c.id))


def _directions(order: Order, *columns: ColumnElement[Any]) -> list[ColumnElement[Any]]:
    return [c.desc() if order.descending else c.asc() for c in columns]


def _page(branch: Select[Any], order: Order, start: Position, limit: int) -> Select[Any]:
    keys = (tasks.c.id,) if start.segment == 1 else (order.column, tasks.c.id)
    if start.id is not None:
        here, there = tuple_(*keys), tuple_(*((start.id,) if start.segment == 1 else (start.key, start.id)))
        branch = branch.where(here < there if order.descending else here > there)
    return branch.order_by(*_directions(order, *keys)).limit(limit)


def _branches(where: TaskFilter, order: Order, *, null_segment: bool) -> list[Select[Any]]:
    base = select(tasks.c.id, order.column.label("key")).where(tasks.c.deleted_at.is_(None), *_conditions(where))
    if order.nullable:
        base = base.where(order.column.is_(None) if null_segment else order.column.is_not(None))
    if not where.statuses:
        return [base]
    wanted = set(where.statuses)
    branches = []
    if (states := _queue_states(wanted)) is not None:
        branches.append(base.join(queue, queue.c.task_id == tasks.c.id).where(states))
    if outcomes := sorted(o.value for o, s in STATUS_OF_OUTCOME.items() if s in wanted):
        final = and_(runs.c.task_id == tasks.c.id, runs.c.final)
        branches.append(base.join(runs, final).where(runs.c.outcome.in_([_constant(o) for o in outcomes])))
    if (own := _own_statuses(wanted)) is not None:
        branches.append(base.where(tasks.c.status.is_not(None), own))
    return branches


def _queue_states(wanted: set[Status]) -> ColumnElement[bool] | None:
    waiting, due = queue.c.state != _constant("running"), queue.c.run_at <= func.now()
    cases = {
        Status.PROCESSING: queue.c.state == _constant("running"),
        Status.PENDING: and_(waiting, due),
        Status.SCHEDULED: and_(waiting, ~due),
    }
    chosen = [condition for status, condition in cases.items() if status in wanted]
    return or_(false(), *chosen) if chosen else None


def _own_statuses(wanted: set[Status]) -> ColumnElement[bool] | None:
    plain = sorted(wanted - {Status.PENDING, Status.SCHEDULED, Status.PROCESSING})
    later = and_(tasks.c.run_at.is_not(None), tasks.c.run_at > func.now())
    pending = tasks.c.status == _constant("pending")
    chosen: list[ColumnElement[bool]] = [tasks.c.status.in_([_constant(s) for s in plain])] if plain else []
    if {Status.PENDING, Status.SCHEDULED} <= wanted:
        chosen.append(pending)
    elif Status.PENDING in wanted:
        chosen.append(and_(pending, ~later))
    elif Status.SCHEDULED in wanted:
        chosen.append(and_(pending, later))
    return or_(false(), *chosen) if chosen else None


def _conditions(where: TaskFilter) -> list[ColumnElement[bool]]:
    c = tasks.c
    found: list[ColumnElement[bool]] = []
    if where.priorities:
        found.append(c.priority.in_([p.rank for p in where.priorities]))
    if where.tags:
        found += [c.tags.bool_op("@>")(list(where.tags)), c.tags != literal_column("'{}'")]
    for name in ("assigned_to", "handler", "queue"):
        if (value := getattr(where, name)) is not None:
            found.append(c[name] == value)
    for column, after, before in (
        (c.created_at, where.created_after, where.created_before),
        (c.due_date, where.due_after, where.due_before),
    ):
        found += [column >= after] if after else []
        found += [column < before] if before else []
    if where.text:
        pattern = f"%{_escape_like(where.text)}%"
        found.append(or_(c.title.ilike(pattern, escape="\\"), c.description.ilike(pattern, escape="\\")))
    return found


def _escape_like(words: str) -> str:
    return words.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


def _constant(word: str) -> ColumnElement[str]:
    """A word of ours (never a caller's) in the statement's text: partial indexes and statistics need to see it."""
    return literal_column(f"'{word}'")
