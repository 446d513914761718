"""Claims of tasks, and the bounds at which a claim starts its search."""

import json
from collections.abc import Sequence
from operator import attrgetter
from typing import Any, NamedTuple
from uuid import UUID
from zlib import crc32

import asyncpg

from task_service.domain.priorities import RANKS
from task_service.queue.statements import Connection, statement

_decode = json.JSONDecoder().raw_decode
"""Decode JSON without surrounding white space, which is how the server writes it.

`json.loads` is slower because it skips white space first.
"""
EARLIEST = 0.0
"""Lower bound of every run_at, in seconds since 1970."""
LOOK_BACK_SECONDS = 2.0
CLAIM_SLOTS = 4
"""Number of workers with the same queues that may claim at the same time."""
ALONE_AFTER_SECONDS = 5.0
"""Time that a task that must run alone waits for an idle worker.

After this time, a busy worker finishes what it runs in order to take the task.
"""


class Claim(NamedTuple):
    """A task that this worker holds under this fence until it reports or is declared dead.

    `run_at` is in seconds since 1970; `waited` is the number of seconds between `run_at` and the
    claim. As datetimes, these two would take the driver as long as the rest of the row.
    """

    task_id: UUID
    fence: int
    attempt: int
    max_attempts: int
    timeout_seconds: int | None
    handler: str
    queue: str
    priority: int
    run_at: float
    waited: float
    alone: bool
    cancel_requested: bool
    trace_context: str | None
    limited: bool
    payload: Any


class Bounds:
    """Lower bounds of run_at, one per lane. A lane is a queue and a priority.

    The bound is the run_at of the last claimed row, or two seconds before it. A transaction that is
    held open elsewhere keeps deleted rows in the index; without a bound, each claim would scan all
    of them again. Slow commits can leave rows below the bound: claim with `look_back` now and then,
    and call `reset` from time to time.

    Within a priority, each claim starts with the next queue, so that no queue starves the others.

    >>> bounds = Bounds(["mail", "web"])
    >>> bounds.lanes()[0][:4], bounds.lanes()[1][:4]
    (['mail', 'web', 'mail', 'web'], [0, 0, 1, 1])
    >>> bounds.advance([])
    >>> bounds.lanes()[0][:4]
    ['web', 'mail', 'web', 'mail']
    """

    def __init__(self, queues: Sequence[str]) -> None:
        self._queues = list(queues)
        self._ranks = sorted(RANKS.values())
        self.reset()

    def lanes(self, *, look_back: bool = True) -> tuple[list[str], list[int], list[float]]:
        """Return queues, priorities and bounds in the order of the claim, most urgent first."""
        lanes = [(queue, rank) for rank in self._ranks for queue in self._queues]
        back = LOOK_BACK_SECONDS if look_back else 0.0
        return (
            [queue for queue, _ in lanes],
            [rank for _, rank in lanes],
            [self._since[lane] - back for lane in lanes],
        )

    def advance(self, claims: Sequence[Claim]) -> None:
        """Raise the bounds to the claimed rows, and start the next claim with the next queue."""
        for claim in claims:
            lane = (claim.queue, claim.priority)
            self._since[lane] = max(self._since[lane], claim.run_at)
        self._queues.append(self._queues.pop(0))

    def reset(self) -> None:
        """Remove the bounds: the next claim searches all rows."""
        self._since = {(queue, rank): EARLIEST for queue in self._queues for rank in self._ranks}


async def claim(
    connection: Connection,
    worker_id: UUID,
    bounds: Bounds,
    limit: int,
    *,
    start_at_once: bool,
    look_back: bool = True,
) -> list[Claim]:
    """Claim up to `limit` tasks and advance the bounds.

    The list is also empty if this worker was declared dead. `look_back` lowers the bounds by
    LOOK_BACK_SECONDS for this claim.
    """
    how = {"start_at_once": start_at_once, "look_back": look_back}
    return await claim_in_slot(connection, worker_id, bounds, limit, None, **how) or []


async def claim_in_slot(  # noqa: PLR0913 - a claim and its slot
    connection: Connection,
    worker_id: UUID,
    bounds: Bounds,
    limit: int,
    slot: int | None,
    *,
    start_at_once: bool,
    look_back: bool,
) -> list[Claim] | None:
    """Claim like `claim`, but return None if another worker occupies this claim slot.

    The slot is one of `claim_slots`; with None the claim does not need a slot.
    """
    queues, priorities, since = bounds.lanes(look_back=look_back)
    given = (worker_id, queues, priorities, since, limit, start_at_once, slot)
    rows = await connection.fetch(statement("claim"), *given)
    if rows and rows[-1][0] is None:
        return None
    claims = [_claim(row) for row in rows]
    claims.sort(key=attrgetter("priority", "run_at"))
    bounds.advance(claims)
    return claims


def claim_slots(queues: Sequence[str]) -> range:
    """Return the claim slots that all workers with these queues share."""
    first = crc32("\0".join(sorted(queues)).encode()) % (2**31 // CLAIM_SLOTS) * CLAIM_SLOTS
    return range(first, first + CLAIM_SLOTS)


async def claim_alone(
    connection: Connection, worker_id: UUID, queues: Sequence[str], waited_seconds: float
) -> Claim | None:
    """Claim one task that must run alone, if one has waited for `waited_seconds`."""
    row = await connection.fetchrow(
        statement("claim_alone"), worker_id, list(queues), waited_seconds
    )
    return _claim(row) if row else None


def _claim(row: asyncpg.Record) -> Claim:
    payload = row[-1]
    return Claim._make((*row[:-1], None if payload is None else _decode(payload)[0]))
