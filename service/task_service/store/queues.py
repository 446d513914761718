"""Queues that people have paused, and how fast tasks come and go. All runs in the caller's
transaction.
"""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from task_service.store.database import raw
from task_service.store.tables import paused_queues

WINDOW_SECONDS = 60.0
SAMPLE = 10_000
# The last so many of all queues within the window, newest first by index; a busier service is
# judged by a shorter time.
RATES = """
WITH arrived AS MATERIALIZED (
    SELECT queue, created_at AS at, handler FROM tasks
    WHERE created_at > now() - make_interval(secs => $2) AND deleted_at IS NULL
    ORDER BY created_at DESC, id DESC LIMIT $3::integer
),
ended AS MATERIALIZED (
    SELECT task_id, finished_at AS at, final FROM runs
    WHERE finished_at > now() - make_interval(secs => $2)
    ORDER BY finished_at DESC, task_id DESC LIMIT $3::integer
)
SELECT
    (SELECT count(*) FILTER (WHERE queue = $1 AND handler IS NOT NULL) / greatest(CASE
        WHEN count(*) = $3::integer THEN extract(epoch FROM now() - min(at)) ELSE $2 END, 0.1) FROM arrived)::float8
        AS arrivals,
    (SELECT count(*) FILTER (WHERE final AND (SELECT queue FROM tasks WHERE tasks.id = ended.task_id) = $1)
        / greatest(CASE
        WHEN count(*) = $3::integer THEN extract(epoch FROM now() - min(at)) ELSE $2 END, 0.1) FROM ended)::float8
        AS completions
"""


@dataclass(frozen=True, slots=True)
class PauseRow:
    """A queue that is paused, by whom, since when and why."""

    name: str
    reason: str | None
    paused_by: str | None
    paused_at: datetime


@dataclass(frozen=True, slots=True)
class Rates:
    """Tasks of a queue per second of the last minute: made, and ended by a worker."""

    arrivals_per_second: float
    completions_per_second: float


COLUMNS = tuple(paused_queues.c[name] for name in PauseRow.__dataclass_fields__)


async def list_pauses(connection: AsyncConnection) -> dict[str, PauseRow]:
    """The paused queues by name."""
    return {row.name: PauseRow(*row) for row in await connection.execute(select(*COLUMNS))}


async def read_pause(connection: AsyncConnection, name: str) -> PauseRow | None:
    """A queue's pause; None when it is not paused."""
    row = (await connection.execute(select(*COLUMNS).where(paused_queues.c.name == name))).first()
    return PauseRow(*row) if row else None


async def insert_pause(connection: AsyncConnection, name: str, reason: str | None, by: str) -> None:
    """Pause a queue. One that is paused stays as it is, but for a reason that is given now."""
    statement = insert(paused_queues).values(name=name, reason=reason, paused_by=by)
    told = {"reason": func.coalesce(statement.excluded.reason, paused_queues.c.reason)}
    await connection.execute(
        statement.on_conflict_do_update(index_elements=[paused_queues.c.name], set_=told)
    )


async def delete_pause(connection: AsyncConnection, name: str) -> bool:
    """End a queue's pause; False when it was not paused."""
    statement = (
        delete(paused_queues).where(paused_queues.c.name == name).returning(paused_queues.c.name)
    )
    return (await connection.execute(statement)).first() is not None


async def read_rates(connection: AsyncConnection, name: str) -> Rates:
    """How fast tasks come to a queue and end."""
    row = await (await raw(connection)).fetchrow(RATES, name, WINDOW_SECONDS, SAMPLE)
    return Rates(row["arrivals"], row["completions"]) if row else Rates(0.0, 0.0)
