"""How the tasks of a page are found: statements that yield ids and sort keys, and in which order
they are tried.

They are made once for each shape of a filter (`TaskFilter.shape`); its values are parameters, named
as the filter's fields, and `most`, `key` and `id`, the page's length and where it begins.

No single plan is good for every filter. Walking the sort's index is quick when many tasks match,
and reads everything when few do; gathering what matches and sorting it is the other way round; and
the planner, which must choose before it knows, chooses the wrong one by seconds. So each is tried
with a bound on what it may read (see `STEPS`). Where one index has the filter and the order, it is
asked at once (`is_served`).

A status is derived (see `task_view`). Gathering by status is a UNION ALL over what it derives from,
each part with an index of its own: the queue, final runs, and statuses that people set. Walking
looks the three up row by row.
"""

from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Integer,
    Select,
    Uuid,
    and_,
    bindparam,
    false,
    func,
    literal_column,
    null,
    or_,
    select,
    tuple_,
    union_all,
)
from sqlalchemy import text as sql
from sqlalchemy.sql.expression import FromClause

from task_service.domain.outcomes import STATUS_OF_OUTCOME
from task_service.domain.statuses import Status
from task_service.store.tables import queue, runs, tasks
from task_service.store.task_lists.filters import SET_BY_PEOPLE, Order, TaskFilter, walkable
from task_service.store.task_lists.text_search import words_match

MOST = bindparam("most", type_=Integer)
"""How many tasks to find."""
UNSEEN = frozenset({"title", "description", "payload"})
"""Columns that are wide and decide nothing."""


class At(NamedTuple):
    """Where a page is: in which segment of the order, and whether it begins after a task."""

    segment: int
    begins: bool


class Step(NamedTuple):
    """A way to find tasks: walk the sort's index, or gather what matches; and how many rows it may
    read, None: all.

    `texts` is of how many of the rows that a walk reads it may look at the words.
    """

    walks: bool
    bound: int | None
    texts: int = 0


STEPS = (Step(True, 2_000), Step(True, 10_000), Step(False, None))
"""To walk past a task takes a third of a microsecond, to gather one two. A filter that a fortieth
of all tasks match fills its page in the first step, one that a two-hundredth do in the second;
fewer are gathered, or as many that all lie at the far end of the order.
"""
STATUS_STEPS = (Step(True, 6_000), Step(True, 20_000), Step(False, None))
"""The status is derived: to gather one takes 20 microseconds, since what lies together in the queue
or among the ends is scattered among the tasks; to walk past one takes less than one.
"""
RECENT_STATUS_STEPS = (Step(True, 6_000), Step(True, 120_000), Step(False, None))
"""In an order of time tasks lie as they were written, and to walk past one takes a third of a
microsecond.
"""
STATUS_AND_TAG_STEPS = (Step(True, 6_000), Step(False, None))
OWN_STATUS_AND_TAG_STEPS = (Step(True, 2_000), Step(False, None))
"""What the tags' index finds is quickly gathered. For more than 2,000 of those that have a status
of people the planner reads all that have it.
"""
TEXT_STEPS = (
    Step(True, 2_000, 60),
    Step(False, 25_000),
    Step(True, 80_000, 4_000),
    Step(False, None),
)
"""To take a text's words costs 15 to 50 microseconds, so walks do it last. The index itself finds
them without.
"""
ALL_STEPS = (Step(False, None),)


def steps_of(where: TaskFilter, order: Order) -> tuple[Step, ...]:
    """What to try, in this order."""
    if _is_of_what_runs(where):
        return ALL_STEPS
    if where.text is not None:
        return TEXT_STEPS
    if not where.statuses:
        return STEPS
    if where.tags:
        return (
            OWN_STATUS_AND_TAG_STEPS
            if set(where.statuses) <= SET_BY_PEOPLE
            else STATUS_AND_TAG_STEPS
        )
    return RECENT_STATUS_STEPS if order.name in ("created_at", "updated_at") else STATUS_STEPS


def plain(where: TaskFilter, order: Order, at: At) -> Select[Any]:
    """Ids and keys in order; for a filter that `is_served`."""
    query = _columns(tasks, order).where(*_here(order, at), *_conditions(where, tasks))
    if where.statuses:
        query = query.where(*_set_by_people(where))
    return query.order_by(*order.directions(*_keys(order, at))).limit(MOST)


def walked(where: TaskFilter, order: Order, at: At, step: Step) -> Select[Any]:
    """The first that match among the next tasks in order, or those of them that its index finds:
    ids and keys.

    Fewer than `most`: unknown.
    """
    keys = order.directions(*_keys(order, at))
    within = walkable(where, order)
    here = [*_here(order, at), *_conditions(within, tasks)]
    if within.statuses:
        here += _set_by_people(within)
    near = select(tasks).where(*here).order_by(*keys).limit(_constant(step.bound)).subquery("near")
    query = _columns(near, order).where(*_conditions(where, near))
    if where.statuses:
        query = _with_status(query, near, set(where.statuses))
    query = query.order_by(*order.directions(near.c[order.name], near.c.id))
    if where.text is None:
        return query.limit(MOST)
    likely = (
        query.add_columns(near.c.title, near.c.description)
        .limit(_constant(step.texts))
        .subquery("likely")
        .c
    )
    found = select(likely.id, likely.key).where(words_match(likely.title, likely.description))
    return found.order_by(*order.directions(likely.key, likely.id)).limit(MOST)


def gathered(where: TaskFilter, order: Order, at: At, step: Step) -> Select[Any]:
    """The first of all that match: ids, keys, and how many were gathered; more than the bound: it
    is not all.
    """
    most = None if step.bound is None else _constant(step.bound + 1)
    if where.text is not None and _is_of_what_runs(where):
        f = _running_with_words(where, order, at)
    elif where.text is not None and (most is not None or where.statuses):
        return _gathered_by_words(where, order, at, most)
    elif where.tags and set(where.statuses) - SET_BY_PEOPLE - {Status.PROCESSING}:
        return _gathered_in_order(where, order, at)
    else:
        f = _gathered_plainly(where, order, at, most)
    return (
        select(f.id, f.key, func.count().over().label("total"))
        .order_by(*order.directions(f.key, f.id))
        .limit(MOST)
    )


def _gathered_plainly(
    where: TaskFilter, order: Order, at: At, most: ColumnElement[Any] | None
) -> Any:
    parts = [b.limit(most) for b in _branches(where, order, at)]
    found = (union_all(*(select(p.subquery()) for p in parts)) if len(parts) > 1 else parts[0]).cte(
        "gathered"
    )
    return found.prefix_with("MATERIALIZED").c


def _gathered_in_order(where: TaskFilter, order: Order, at: At) -> Select[Any]:
    """All that the tags' index finds, in order, and then their status one by one until there are
    enough.
    """
    named = [c for c in tasks.c if c.name not in UNSEEN]
    hits = select(*named).where(*_here(order, at, in_order=False), *_conditions(where, tasks))
    near = (
        hits.order_by(*order.directions(tasks.c[order.name], tasks.c.id))
        .cte("hits")
        .prefix_with("MATERIALIZED")
    )
    query = _columns(near, order).add_columns(literal_column("0").label("total"))
    found = _with_status(query, near, set(where.statuses))
    return found.order_by(*order.directions(near.c[order.name], near.c.id)).limit(MOST)


def _is_of_what_runs(where: TaskFilter) -> bool:
    """Never many, whatever else is asked: they are looked at one by one."""
    return set(where.statuses) == {Status.PROCESSING}


def _running_with_words(where: TaskFilter, order: Order, at: At) -> Any:
    """What runs is never much, whatever words it has: it is looked at, instead of all that have the
    words.
    """
    conditions = [*_here(order, at, in_order=False), *_conditions(where, tasks)]
    entries = select(queue.c.task_id).where(queue.c.state == _constant("running")).cte("entries")
    running = (
        select(tasks)
        .join(entries.prefix_with("MATERIALIZED"), entries.c.task_id == tasks.c.id)
        .where(*conditions)
    )
    near = running.offset(literal_column("0")).subquery("near")
    return (
        _columns(near, order)
        .where(words_match(near.c.title, near.c.description))
        .subquery("found")
        .c
    )


def _gathered_by_words(
    where: TaskFilter, order: Order, at: At, most: ColumnElement[Any] | None
) -> Select[Any]:
    """Bounded, only the index of words is asked, so that other conditions cannot tempt the planner
    to take the words of all tasks that fulfil them; those are checked afterwards. A row without an
    id tells how many have the words.
    """
    named = [c for c in tasks.c if c.name not in UNSEEN]
    with_words = [tasks.c.deleted_at.is_(None), words_match(tasks.c.title, tasks.c.description)]
    more = [*_here(order, at, in_order=False), *_conditions(where, tasks)] if most is None else []
    hits = (
        select(*named).where(*with_words, *more).limit(most).cte("hits").prefix_with("MATERIALIZED")
    )
    total = select(func.count()).select_from(hits).scalar_subquery()
    query = _columns(hits, order).where(
        *_here(order, at, hits, in_order=False), *_conditions(where, hits)
    )
    if where.statuses:
        query = _with_status(query, hits, set(where.statuses))
    found = (
        query.order_by(*order.directions(hits.c[order.name], hits.c.id))
        .limit(MOST)
        .subquery("found")
        .c
    )
    told = select(null().cast(Uuid), null().cast(order.column.type), total)
    both = union_all(
        select(found.id, found.key, literal_column("0").cast(BigInteger).label("total")), told
    ).subquery()
    return select(both)


def _columns(table: FromClause, order: Order) -> Select[Any]:
    return select(table.c.id, table.c[order.name].label("key"))


def _keys(order: Order, at: At, table: FromClause = tasks) -> tuple[ColumnElement[Any], ...]:
    return (table.c.id,) if at.segment == 1 else (table.c[order.name], table.c.id)


def _here(
    order: Order, at: At, table: FromClause = tasks, *, in_order: bool = True
) -> list[ColumnElement[bool]]:
    """What the sort's index has of this segment, from here on; `in_order`: it is to be read by that
    index.
    """
    key = table.c[order.name]
    found: list[ColumnElement[bool]] = [table.c.deleted_at.is_(None)] if table is tasks else []
    if order.nullable:
        found.append(key.is_(None) if at.segment == 1 else key.is_not(None))
    if at.begins:
        here = tuple_(*_keys(order, at, table))
        last, task_id = bindparam("key", type_=order.column.type), bindparam("id", type_=Uuid)
        there = tuple_(*((task_id,) if at.segment == 1 else (last, task_id)))
        found.append(here < there if order.descending else here > there)
    elif in_order and at.segment == 0:
        # All have it. It makes the sort's index look cheaper than others to a planner whose
        # statistics are of an empty table: else it sorts what it takes for a handful.
        found.append(
            key >= literal_column("'-infinity'::timestamptz" if order.kind is datetime else "0")
        )
    return found


def _set_by_people(where: TaskFilter) -> list[ColumnElement[bool]]:
    return [tasks.c.status.is_not(None), _own(set(where.statuses), tasks)]


def _branches(where: TaskFilter, order: Order, at: At) -> list[Select[Any]]:
    base = _columns(tasks, order).where(
        *_here(order, at, in_order=False), *_conditions(where, tasks, with_words=True)
    )
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
        branches.append(base.where(*_set_by_people(where)))
    return branches


def _with_status(query: Select[Any], near: FromClause, wanted: set[Status]) -> Select[Any]:
    """LIMIT keeps these to one look-up a row; the planner would rather hash the whole of a table."""
    holds: list[ColumnElement[bool]] = []
    source = near
    if _queue_states(wanted, queue) is not None:
        entry = (
            select(queue.c.state, queue.c.run_at)
            .where(queue.c.task_id == near.c.id)
            .limit(_constant(1))
            .lateral("entry")
        )
        source, state = source.outerjoin(entry, sql("true")), _queue_states(wanted, entry)
        holds += [] if state is None else [state]
    if outcomes := _outcomes(wanted):
        final = (
            select(runs.c.outcome)
            .where(runs.c.task_id == near.c.id, runs.c.final)
            .limit(_constant(1))
            .lateral("final_run")
        )
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
    return [
        _constant(o) for o in sorted(o.value for o, s in STATUS_OF_OUTCOME.items() if s in wanted)
    ]


def _has_own(wanted: set[Status]) -> bool:
    return bool(wanted - {Status.PROCESSING})


def _own(wanted: set[Status], table: FromClause) -> ColumnElement[bool]:
    c = table.c
    plain_ones = sorted(wanted - {Status.PENDING, Status.SCHEDULED, Status.PROCESSING})
    later = and_(c.run_at.is_not(None), c.run_at > func.now())
    pending = c.status == _constant("pending")
    chosen: list[ColumnElement[bool]] = (
        [c.status.in_([_constant(s) for s in plain_ones])] if plain_ones else []
    )
    if {Status.PENDING, Status.SCHEDULED} <= wanted:
        chosen.append(pending)
    elif Status.PENDING in wanted:
        chosen.append(and_(pending, ~later))
    elif Status.SCHEDULED in wanted:
        chosen.append(and_(pending, later))
    return or_(false(), *chosen)


def _conditions(
    where: TaskFilter, table: FromClause, *, with_words: bool = False
) -> list[ColumnElement[bool]]:
    c = table.c
    found: list[ColumnElement[bool]] = []
    if where.priorities:
        found.append(c.priority.in_([_constant(p.rank) for p in where.priorities]))
    if where.tags:
        found += [
            c.tags.bool_op("@>")(bindparam("tags", type_=tasks.c.tags.type)),
            c.tags != literal_column("'{}'"),
        ]
    for name in ("assigned_to", "handler", "queue"):
        if getattr(where, name) is not None:
            found.append(c[name] == bindparam(name))
    for column, name in ((c.created_at, "created"), (c.due_date, "due")):
        found += [column >= bindparam(f"{name}_after")] if getattr(where, f"{name}_after") else []
        found += [column < bindparam(f"{name}_before")] if getattr(where, f"{name}_before") else []
    if with_words and where.text is not None:
        found.append(words_match(c.title, c.description))
    return found


def _constant(value: str | int | None) -> ColumnElement[Any]:
    """A word of ours (never a caller's) in the statement's text: partial indexes and statistics
    need to see it.
    """
    return literal_column(str(value) if isinstance(value, int) else f"'{value}'")
