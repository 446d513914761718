"""Live events: changes by people and ends of attempts, of all tasks, in one order that only grows.

Ids are taken before transactions commit, so a smaller one may become visible after a larger one was
read. Events are therefore ordered by transaction, and read only below the oldest transaction that
still runs: what is there is final.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg

from task_service.domain.errors import InvalidFieldError
from task_service.domain.outcomes import STATUS_OF_OUTCOME, Outcome
from task_service.domain.statuses import Status
from task_service.store.history import DELETED

NONE = UUID(int=0)
BIGINT_MAX = 2**63 - 1
NOT_OURS = "is not the id of an event of these streams; leave it out to start now, or say 0 to start at the beginning"
FORM = re.compile(
    r"(?P<transaction>[0-9]{1,19})"
    r"(\.(?P<change>[0-9]{1,19})|\.(?P<task>[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})\.(?P<fence>[0-9]{1,19}))?"
)
ALWAYS_ENDS = frozenset({Outcome.COMPLETED, Outcome.CANCELLED, Outcome.DISCARDED})
"""Outcomes that ended their task even if a person has reopened it since."""


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """A place in the order of events: behind this change, or this run, of a transaction; by default
    before all of it.

    >>> str(Position(812)), str(Position(812, 7))
    ('812', '812.7')
    >>> Position(811, 9) < Position(812) < Position(812, 7) < Position.after_run(812, UUID(int=1), 3) < Position(813)
    True
    """

    transaction: int
    change: int = -1
    task_id: UUID = NONE
    fence: int = -1

    @classmethod
    def after_run(cls, transaction: int, task_id: UUID, fence: int) -> "Position":
        """Behind a run; the runs of a transaction come after its changes."""
        return cls(transaction, BIGINT_MAX, task_id, fence)

    @classmethod
    def parse(cls, text: str, field: str = "Last-Event-ID") -> "Position":
        """Read what `str` made of a position; InvalidFieldError, naming `field`, for anything else.

        >>> Position.parse("812.00000000-0000-0000-0000-000000000001.3").fence
        3
        """
        found = FORM.fullmatch(text)
        parts = found.groupdict() if found else {}
        numbers = {
            name: int(parts[name]) for name in ("transaction", "change", "fence") if parts.get(name)
        }
        if found is None or max(numbers.values()) > BIGINT_MAX:
            raise InvalidFieldError(field, NOT_OURS)
        if parts["task"] is None:
            return cls(numbers["transaction"], numbers.get("change", -1))
        return cls.after_run(numbers["transaction"], UUID(parts["task"]), numbers["fence"])

    def __str__(self) -> str:
        if self.fence >= 0:
            return f"{self.transaction}.{self.task_id}.{self.fence}"
        return f"{self.transaction}.{self.change}" if self.change >= 0 else str(self.transaction)


@dataclass(frozen=True, slots=True)
class TaskEvent:
    """What happened to a task. `queue` and `handler` are the task's present ones; None when it is
    gone for good.
    """

    position: Position
    name: str
    task_id: UUID
    at: datetime
    previous_status: str | None
    status: str
    by: str | None
    reason: str | None
    fields: list[str]
    attempt: int | None
    queue: str | None
    handler: str | None


@dataclass(frozen=True, slots=True)
class Horizon:
    """The oldest transaction that still runs, and for how long it has kept back the oldest event
    behind it.
    """

    oldest: int
    held_seconds: float


@dataclass(frozen=True, slots=True)
class Page:
    """Events, and the place up to which there are no others. `is_last`: nothing more can be read at
    the moment.

    `is_back`: the database knows nothing of the place that was asked for, it was restored or
    crashed; `reached` is now.
    """

    events: list[TaskEvent]
    reached: Position
    is_last: bool
    is_back: bool = False


HORIZON = """
SELECT pg_snapshot_xmin(now.snapshot)::text::bigint AS oldest,
    coalesce(extract(epoch FROM clock_timestamp() - least(change.at, run.at)), 0)::float8 AS held_seconds
FROM pg_current_snapshot() AS now (snapshot)
LEFT JOIN LATERAL (
    SELECT at FROM task_history
    WHERE transaction_id >= pg_snapshot_xmin(now.snapshot) ORDER BY transaction_id, id LIMIT 1
) AS change ON true
LEFT JOIN LATERAL (
    SELECT finished_at AS at FROM runs
    WHERE transaction_id >= pg_snapshot_xmin(now.snapshot) ORDER BY transaction_id, task_id LIMIT 1
) AS run ON true
"""
EVENTS = """
SELECT e.*, t.queue, t.handler, t.id IS NOT NULL AND t.deleted_at IS NULL AS is_live
FROM (
    (
        SELECT transaction_id, id AS change, NULL::bigint AS fence, task_id, at, previous_status,
            new_status AS status, changed_by AS by, reason, fields, NULL::text AS outcome, NULL::boolean AS final,
            NULL::smallint AS attempt
        FROM task_history
        WHERE (transaction_id, id) > ($1::text::xid8, $2::bigint) AND transaction_id < $5::text::xid8 {of_task}
        ORDER BY transaction_id, id
        LIMIT $6
    )
    UNION ALL
    (
        SELECT transaction_id, 9223372036854775807, fence, task_id, finished_at, 'processing',
            NULL, worker_id::text, coalesce(reason, outcome), '{{}}', outcome, final OR reopened,
            attempt
        FROM runs
        WHERE (transaction_id, task_id, fence) > ($1::text::xid8, $3::uuid, $4::bigint)
            AND transaction_id < $5::text::xid8 {of_task}
        ORDER BY transaction_id, task_id, fence
        LIMIT $6
    )
    ORDER BY transaction_id, change, task_id, fence
    LIMIT $6
) AS e
LEFT JOIN tasks AS t ON t.id = e.task_id
ORDER BY e.transaction_id, e.change, e.task_id, e.fence
"""
OF_ALL, OF_TASK = EVENTS.format(of_task=""), EVENTS.format(of_task="AND task_id = ANY ($7::uuid[])")


async def read_horizon(connection: asyncpg.Connection) -> Horizon:
    """How far events can be read now."""
    [row] = await connection.fetch(HORIZON)
    return Horizon(row["oldest"], max(0.0, row["held_seconds"]))


async def read_events(
    connection: asyncpg.Connection,
    after: Position,
    horizon: Horizon,
    limit: int,
    task_ids: Collection[UUID] = (),
) -> Page:
    """The next events behind a position, below a horizon that was read before; of these tasks only,
    if there are any.

    Of a task that is deleted only the deletion is left.
    """
    end = Position(horizon.oldest)
    if after >= end:
        return Page([], end, is_last=True, is_back=after > end)
    given = [
        str(after.transaction),
        after.change,
        after.task_id,
        after.fence,
        str(horizon.oldest),
        limit,
    ]
    if task_ids:
        rows = await connection.fetch(OF_TASK, *given, list(task_ids))
    else:
        rows = await connection.fetch(OF_ALL, *given)
    events = [_event(row) for row in rows if row["is_live"] or row["status"] == DELETED]
    is_last = len(rows) < limit
    return Page(events, end if is_last else _position(rows[-1]), is_last)


def _position(row: Any) -> Position:
    transaction = int(row["transaction_id"])
    if row["fence"] is None:
        return Position(transaction, row["change"])
    return Position.after_run(transaction, row["task_id"], row["fence"])


def _event(row: Any) -> TaskEvent:
    status, name = _told(row)
    return TaskEvent(
        _position(row), name, row["task_id"], row["at"], row["previous_status"], status, row["by"], row["reason"],
        row["fields"], row["attempt"], row["queue"], row["handler"],
    )  # fmt: skip


def _told(row: Any) -> tuple[str, str]:
    """The status that came of it, and the event's name."""
    if row["outcome"] is not None:
        ends = row["final"] or row["outcome"] in ALWAYS_ENDS
        status = STATUS_OF_OUTCOME.get(row["outcome"], "failed") if ends else "pending"
        return status, f"task.{status if ends else 'requeued'}"
    before, after = row["previous_status"], row["status"]
    if before is None:
        return after, "task.created"
    if after == DELETED:
        return after, "task.deleted"
    ended = after != before and after in (Status.COMPLETED, Status.FAILED, Status.CANCELLED)
    return after, f"task.{after}" if ended else "task.changed"
