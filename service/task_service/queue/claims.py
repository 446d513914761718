"""Claiming tasks, and where a claim starts to look."""

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
"""JSON without white space around it, as the server writes it: `loads` looks for some first, which takes longer."""
BEGINNING = 0.0
"""Of all run_at, in seconds since 1970."""
BEHIND_SECONDS = 2.0
TURNS = 4
"""So many workers of the same queues claim at a time."""
ALONE_AFTER_SECONDS = 5.0
"""A task that must run alone waits so long for an idle worker before a busy one empties itself for it."""


class Claim(NamedTuple):
    """A task that this worker holds, under this fence, until it reports or is declared dead.

    `run_at` is in seconds since 1970, `waited` in seconds from then to the claim: two datetimes would take the driver
    as long as all else in the row.
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
    """A lower bound of run_at per queue and priority: the last claimed row's, or two seconds behind it.

    A transaction that is held open elsewhere keeps deleted rows in the index; without a bound each claim would walk
    over all of them again. Rows below it can exist, of commits that took longer than others: look behind it now and
    then, and sometimes `forget` it.

    Within a priority each claim begins with the next queue, so that none is drained before the others are served.

    >>> bounds = Bounds(["mail", "web"])
    >>> bounds.lines()[0][:4], bounds.lines()[1][:4]
    (['mail', 'web', 'mail', 'web'], [0, 0, 1, 1])
    >>> bounds.advance([])
    >>> bounds.lines()[0][:4]
    ['web', 'mail', 'web', 'mail']
    """

    def __init__(self, queues: Sequence[str]) -> None:
        self._queues = list(queues)
        self._ranks = sorted(RANKS.values())
        self.forget()

    def lines(self, *, behind: bool = True) -> tuple[list[str], list[int], list[float]]:
        """Queues, priorities and bounds as the claim takes them, most urgent first."""
        lines = [(queue, rank) for rank in self._ranks for queue in self._queues]
        back = BEHIND_SECONDS if behind else 0.0
        return (
            [q for q, _ in lines],
            [r for _, r in lines],
            [self._since[line] - back for line in lines],
        )

    def advance(self, claims: Sequence[Claim]) -> None:
        """Move up to what was claimed, and on to the next queue."""
        for claim in claims:
            key = (claim.queue, claim.priority)
            self._since[key] = max(self._since[key], claim.run_at)
        self._queues.append(self._queues.pop(0))

    def forget(self) -> None:
        """Let the next claim look at everything."""
        self._since = {(queue, rank): BEGINNING for queue in self._queues for rank in self._ranks}


async def claim(
    connection: Connection,
    worker_id: UUID,
    bounds: Bounds,
    limit: int,
    *,
    start_at_once: bool,
    behind: bool = True,
) -> list[Claim]:
    """Claim up to `limit` tasks and move the bounds; an empty list also when this worker was declared dead.

    `behind`: look behind the bounds too.
    """
    how = {"start_at_once": start_at_once, "behind": behind}
    return await claim_in_turn(connection, worker_id, bounds, limit, None, **how) or []


async def claim_in_turn(  # noqa: PLR0913 - a claim, and whose turn it is
    connection: Connection,
    worker_id: UUID,
    bounds: Bounds,
    limit: int,
    turn: int | None,
    *,
    start_at_once: bool,
    behind: bool,
) -> list[Claim] | None:
    """The same, unless another worker has this turn, one of `turns_of` the queues: None then. Without one: at once."""
    queues, priorities, since = bounds.lines(behind=behind)
    given = (worker_id, queues, priorities, since, limit, start_at_once, turn)
    rows = await connection.fetch(statement("claim"), *given)
    if rows and rows[-1][0] is None:
        return None
    claims = [_claim(row) for row in rows]
    claims.sort(key=attrgetter("priority", "run_at"))
    bounds.advance(claims)
    return claims


def turns_of(queues: Sequence[str]) -> range:
    """The turns of workers with these queues, who are in each other's way."""
    first = crc32("\0".join(sorted(queues)).encode()) % (2**31 // TURNS) * TURNS
    return range(first, first + TURNS)


async def claim_alone(
    connection: Connection, worker_id: UUID, queues: Sequence[str], waited_seconds: float
) -> Claim | None:
    """Claim one task that must not run beside others, if one has waited so long."""
    row = await connection.fetchrow(
        statement("claim_alone"), worker_id, list(queues), waited_seconds
    )
    return _claim(row) if row else None


def _claim(row: asyncpg.Record) -> Claim:
    payload = row[-1]
    return Claim._make((*row[:-1], None if payload is None else _decode(payload)[0]))
