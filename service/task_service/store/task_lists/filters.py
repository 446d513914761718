"""Which tasks a list shows, and in which order: plain values, and which of them one index serves."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import ColumnElement

from task_service.domain.priorities import Priority
from task_service.domain.statuses import Status
from task_service.store.tables import tasks

Sort = Literal[
    "created_at",
    "-created_at",
    "due_date",
    "-due_date",
    "priority",
    "-priority",
    "updated_at",
    "-updated_at",
]
SET_BY_PEOPLE = frozenset({Status.IN_PROGRESS})
"""Statuses that only people set."""
SOME_TIME = datetime(2000, 1, 1, tzinfo=UTC)
TIMES = ("created_after", "created_before", "due_after", "due_before")
WORDS = ("assigned_to", "handler", "queue", "text")


@dataclass(frozen=True, slots=True)
class TaskFilter:
    """Conditions that all hold; an empty one does not filter. Ranges take in their beginning, not
    their end.
    """

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
        return {
            n.removesuffix("_after").removesuffix("_before")
            for n in self.__slots__
            if getattr(self, n) not in (None, ())
        }

    def shape(self) -> "TaskFilter":
        """The same for all filters whose statement is the same: values that become parameters are
        left out.

        Statuses and priorities stay, since partial indexes and statistics need to see them; so does
        whether the queue is `default`, which has no index of its own.

        >>> TaskFilter(assigned_to="ada", text="tea").shape() == TaskFilter(assigned_to="bob", text="milk").shape()
        True
        """
        if self == TaskFilter():
            return self
        some: dict[str, Any] = {n: "" for n in WORDS if getattr(self, n) is not None}
        some |= {n: SOME_TIME for n in TIMES if getattr(self, n) is not None}
        if self.queue == "default":
            some["queue"] = self.queue
        if self.tags:
            some["tags"] = ("",)
        statuses, priorities = (
            tuple(sorted(set(self.statuses))),
            tuple(sorted(set(self.priorities))),
        )
        return replace(self, statuses=statuses, priorities=priorities, **some)


@dataclass(frozen=True, slots=True)
class Order:
    """A sort key and its direction. Priorities sort by urgency; their ranks (0 is urgent) run the
    other way.
    """

    name: str
    column: ColumnElement[Any]
    kind: type
    descending: bool
    nullable: bool = False

    def directions(self, *columns: ColumnElement[Any]) -> list[ColumnElement[Any]]:
        """These columns in this direction."""
        return [c.desc() if self.descending else c.asc() for c in columns]


@lru_cache
def order_of(sort: Sort) -> Order:
    """Read a sort such as `-due_date`."""
    name = sort.lstrip("-")
    descending = sort.startswith("-") != (name == "priority")
    return Order(
        name,
        tasks.c[name],
        int if name == "priority" else datetime,
        descending,
        nullable=name == "due_date",
    )


@dataclass(frozen=True, slots=True)
class Position:
    """The last row of a page: its segment, sort key and id. Tasks without the key are the second
    segment.
    """

    segment: int
    key: Any
    id: UUID | None


START = Position(0, None, None)


def walkable(where: TaskFilter, order: Order) -> TaskFilter:
    """The part of a filter that one index has together with the order: to walk within it reads past
    nothing else.

    A range of the sort key; and before `created_at` there is an index for each of the filters that
    people use most.

    >>> walkable(TaskFilter(handler="mail", tags=("red",)), order_of("-created_at")) == TaskFilter(handler="mail")
    True
    """
    names = {"created_at": TIMES[:2], "due_date": TIMES[2:]}.get(order.name, ())
    indexed = {
        "assigned_to": where.assigned_to is not None,
        "handler": where.handler is not None,
        "queue": where.queue not in (None, "default"),
        "statuses": bool(where.statuses) and set(where.statuses) <= SET_BY_PEOPLE,
        "priorities": len(where.priorities) == 1,
    }
    first = next((name for name, there in indexed.items() if there), None)
    if order.name == "created_at" and first is not None:
        names = (*names, first)
    elif order.name == "priority" and len(where.priorities) == 1:
        names = (*names, "priorities")
    return TaskFilter(**{name: getattr(where, name) for name in names})


def is_served(where: TaskFilter, order: Order) -> bool:
    """Whether one index has the filter and the order, so that the plain statement reads only what
    it shows.
    """
    return walkable(where, order) == where
