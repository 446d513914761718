"""How the tasks of a page are found: statements that yield their ids and sort keys, and in which order they are tried.

No single plan is good for every filter. Walking the sort's index is quick when many tasks match, and reads everything
when few do; gathering what matches and sorting it is the other way round; and the planner, which must choose before it
knows, chooses the wrong one by seconds. So each is tried with a bound on what it may read (see `STEPS`). Where one
index has the filter and the order, it is asked at once (`is_served`).

A status is derived (see `task_view`). Gathering by status is a UNION ALL over what it derives from, each part with an
index of its own: the queue, final runs, and statuses that people set. Walking looks the three up row by row.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import ColumnElement, Select, and_, false, func, literal, literal_column, or_, select, tuple_, union_all
from sqlalchemy import text as sql
from sqlalchemy.sql.expression import FromClause

from task_service.domain.outcomes import STATUS_OF_OUTCOME
from task_service.domain.priorities import Priority
from task_service.domain.statuses import Status
from task_service.store.tables import queue, runs, tasks
from task_service.store.words import words_match

RANGES = {"created_at": "created", "due_date": "due", "priority": "priorities"}
"""Which filter picks a range of a sort key."""
SET_BY_PEOPLE = frozenset({Status.IN_PROGRESS})
"""Statuses that only people set."""


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

    def given(self) -> set[str]:
        """What it filters by; ranges without their end's name."""
        return {n.removesuffix("_after").removesuffix("_before") for n in self.__slots__ if getattr(self, n)}


@dataclass(frozen=True, slots=True)
class Order:
    """A sort key and its direction. Priorities sort by urgency; their ranks (0 is urgent) run the other way."""

    name: str
    column: ColumnElement[Any]
    kind: type
    descending: bool
    nullable: bool = False

    def directions(self, *columns: ColumnElement[Any]) -> list[ColumnElement[Any]]:
        """These columns in this direction."""
        return [c.desc() if self.descending else c.asc() for c in columns]


@dataclass(frozen=True, slots=True)
class Position:
    """The last row of a page: its segment, sort key and id. Tasks without the key are the second segment."""

    segment: int
    key: Any
    id: UUID | None


class Step(NamedTuple):
    """A way to find tasks: walk the sort's index, or gather what matches; and how many rows it may read, None: all."""

    walks: bool
    bound: int | None


STEPS = (Step(True, 2_000), Step(False, 5_000), Step(True, 10_000), Step(False, None))
"""Each row costs a microsecond or few. A filter that a fortieth of all tasks match fills its page in the first step;
one that up to 5,000 do is done after the second, and of a million, one that more do after the third. The last one is
for tasks that are many, and all lie at the far end of the order."""
TEXT_STEPS = (Step(True, 200), Step(False, 30_000), Step(True, 3_000), Step(False, None))
"""To take a text's words costs 50 microseconds: walks are shorter. The index itself finds them without."""


def steps_of(where: TaskFilter) -> tuple[Step, ...]:
    """What to try, in this order."""
    return TEXT_STEPS if where.text else STEPS


def is_served(where: TaskFilter, order: Order) -> bool:
    """Whether one index has the filter and the order, so that the plain statement reads only what it shows."""
    given = where.given()
    if not given or given == {RANGES.get(order.name)}:
        return len(where.priorities) <= 1
    if order.name != "created_at":
        return False
    if given == {"statuses"}:
        return set(where.statuses) <= SET_BY_PEOPLE
    return given - {"created"} in ({"assigned_to"}, {"handler"}) or (given == {"queue"} and where.queue != "default")


def plain(where: TaskFilter, order: Order, start: Position, limit: int) -> Select[Any]:
    """Ids and keys in order; for a filter that `is_served`."""
    query = _columns(tasks, order).where(*_here(order, start), *_conditions(where, tasks))
    if where.statuses:
        query = query.where(tasks.c.status.is_not(None), _own(set(where.statuses), tasks))
    return query.order_by(*order.directions(*_keys(order, start))).limit(limit)


def walked(where: TaskFilter, order: Order, start: Position, limit: int, bound: int) -> Select[Any]:
    """The first that match among the next `bound` tasks in order: ids and keys. Fewer than `limit`: unknown."""
    keys = order.directions(*_keys(order, start))
    near = select(tasks).where(*_here(order, start)).order_by(*keys).limit(bound).subquery("near")
    query = _columns(near, order).where(*_conditions(where, near))
    if where.statuses:
        query = _with_status(query, near, set(where.statuses))
    return query.order_by(*order.directions(near.c[order.name], near.c.id)).limit(limit)


def gathered(where: TaskFilter, order: Order, start: Position, limit: int, bound: int | None) -> Select[Any]:
    """The first of all that match: ids, keys, and how many were gathered. More than `bound`: it is not all of them."""
    most = None if bound is None else bound + 1
    parts = [b.limit(most) for b in _branches(where, order, start)]
    found = (union_all(*(select(p.subquery()) for p in parts)) if len(parts) > 1 else parts[0]).cte("gathered")
    f = found.prefix_with("MATERIALIZED").c
    return select(f.id, f.key, func.count().over().label("total")).order_by(*order.directions(f.key, f.id)).limit(limit)


def _columns(table: FromClause, order: Order) -> Select[Any]:
    return select(table.c.id, table.c[order.name].label("key"))


def _keys(order: Order, start: Position) -> tuple[ColumnElement[Any], ...]:
    return (tasks.c.id,) if start.segment == 1 else (order.column, tasks.c.id)


def _here(order: Order, start: Position) -> list[ColumnElement[bool]]:
    """What the sort's index has of this segment, from here on."""
    found: list[ColumnElement[bool]] = [tasks.c.deleted_at.is_(None)]
    if order.nullable:
        found.append(order.column.is_(None) if start.segment == 1 else order.column.is_not(None))
    if start.id is not None:
        here = tuple_(*_keys(order, start))
        there = tuple_(*((start.id,) if start.segment == 1 else (start.key, start.id)))
        found.append(here < there if order.descending else here > there)
    return found


def _branches(where: TaskFilter, order: Order, start: Position) -> list[Select[Any]]:
    base = _columns(tasks, order).where(*_here(order, start), *_conditions(where, tasks))
    if not where.statuses:
        return [base]
    wanted = set(where.statuses)
    branches = []
    if (states := _queue_states(wanted, queue)) is not None:
        branches.append(base.join(queue, queue.c.task_id == tasks.c.id).where(states))
    if outcomes := _outcomes(wanted):
        final = and_(runs.c.task_id == tasks.c.id, runs.c.final)
        branches.append(base.join(runs, final).where(runs.c.outcome.in_(outcomes)))
    if _has_own(wanted):
        branches.append(base.where(tasks.c.status.is_not(None), _own(wanted, tasks)))
    return branches


def _with_status(query: Select[Any], near: FromClause, wanted: set[Status]) -> Select[Any]:
    """LIMIT keeps these to one look-up a row; the planner would rather hash the whole of a table."""
    holds: list[ColumnElement[bool]] = []
    source = near
    if _queue_states(wanted, queue) is not None:
        entry = select(queue.c.state, queue.c.run_at).where(queue.c.task_id == near.c.id).limit(1).lateral("entry")
        source, state = source.outerjoin(entry, sql("true")), _queue_states(wanted, entry)
        holds += [] if state is None else [state]
    if outcomes := _outcomes(wanted):
        final = select(runs.c.outcome).where(runs.c.task_id == near.c.id, runs.c.final).limit(1).lateral("final_run")
        source = source.outerjoin(final, sql("true"))
        holds.append(final.c.outcome.in_(outcomes))
    if _has_own(wanted):
        holds.append(_own(wanted, near))
    return query.select_from(source).where(or_(false(), *holds))


def _queue_states(wanted: set[Status], entry: FromClause) -> ColumnElement[bool] | None:
    waiting, due = entry.c.state != _constant("running"), entry.c.run_at <= func.now()
    cases = {
        Status.PROCESSING: entry.c.state == _constant("running"),
        Status.PENDING: and_(waiting, due),
        Status.SCHEDULED: and_(waiting, ~due),
    }
    chosen = [condition for status, condition in cases.items() if status in wanted]
    return or_(false(), *chosen) if chosen else None


def _outcomes(wanted: set[Status]) -> list[ColumnElement[str]]:
    return [_constant(o) for o in sorted(o.value for o, s in STATUS_OF_OUTCOME.items() if s in wanted)]


def _has_own(wanted: set[Status]) -> bool:
    return bool(wanted - {Status.PROCESSING})


def _own(wanted: set[Status], table: FromClause) -> ColumnElement[bool]:
    c = table.c
    plain_ones = sorted(wanted - {Status.PENDING, Status.SCHEDULED, Status.PROCESSING})
    later = and_(c.run_at.is_not(None), c.run_at > func.now())
    pending = c.status == _constant("pending")
    chosen: list[ColumnElement[bool]] = [c.status.in_([_constant(s) for s in plain_ones])] if plain_ones else []
    if {Status.PENDING, Status.SCHEDULED} <= wanted:
        chosen.append(pending)
    elif Status.PENDING in wanted:
        chosen.append(and_(pending, ~later))
    elif Status.SCHEDULED in wanted:
        chosen.append(and_(pending, later))
    return or_(false(), *chosen)


def _conditions(where: TaskFilter, table: FromClause) -> list[ColumnElement[bool]]:
    c = table.c
    found: list[ColumnElement[bool]] = []
    if where.priorities:
        found.append(c.priority.in_([p.rank for p in where.priorities]))
    if where.tags:
        found += [c.tags.bool_op("@>")(list(where.tags)), c.tags != literal_column("'{}'")]
    for name in ("assigned_to", "handler", "queue"):
        if (value := getattr(where, name)) is not None:
            found.append(c[name] == literal(value))
    for column, after, before in (
        (c.created_at, where.created_after, where.created_before),
        (c.due_date, where.due_after, where.due_before),
    ):
        found += [column >= after] if after else []
        found += [column < before] if before else []
    if where.text:
        found.append(words_match(where.text, c.title, c.description))
    return found


def _constant(word: str) -> ColumnElement[str]:
    """A word of ours (never a caller's) in the statement's text: partial indexes and statistics need to see it."""
    return literal_column(f"'{word}'")
