"""The daily log: a snapshot of the tasks that were active on a day. It is written in chunks, each
its own transaction.

A chunk locks its tasks (KEY SHARE: only who deletes one for good has to wait), so that none is gone
before its entry refers to it. Chunks and their tasks are in the order of the ids: loaders at the
same work wait for each other, never in a circle.
"""

from dataclasses import dataclass
from datetime import date, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Select, func, select, tuple_
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from task_service.domain.errors import InvalidFieldError
from task_service.domain.ids import new_id
from task_service.domain.statuses import OPEN
from task_service.store.cursors import NOT_OURS, decode_cursor, encode_cursor
from task_service.store.database import raw
from task_service.store.tables import daily_loads, daily_log

CHUNK = 2_000
BEGINNING = UUID(int=0)

# Common to both: $1 date, $2 the id after which to go on, $3 how many tasks to look at, $4 ids for
# the entries, $5 the open statuses. `page` are the tasks that are looked at, `active` those of them
# that go into the log.
ADD = """
added AS (
    INSERT INTO daily_log (id, date, task_id, title, status, assigned_to)
    SELECT ($4::uuid[])[row_number() OVER (ORDER BY a.id)], $1, a.id, a.title, a.status, a.assigned_to
    FROM active AS a
    WHERE a.status = ANY ($5::text[])
        AND NOT EXISTS (SELECT FROM daily_log AS d WHERE d.date = $1 AND d.task_id = a.id)
    ORDER BY a.id
    ON CONFLICT (date, task_id) DO NOTHING
    RETURNING 1
)
SELECT
    (SELECT count(*) FROM page) AS seen, (SELECT id FROM page ORDER BY id DESC LIMIT 1) AS last,
    (SELECT count(*) FROM added) AS added
"""
COPY_PRESENT = f"""
WITH page AS MATERIALIZED (
    SELECT id FROM (
        (SELECT task_id AS id FROM queue WHERE task_id > $2 ORDER BY task_id LIMIT $3::integer)
        UNION ALL
        (SELECT id FROM tasks WHERE status = 'pending' AND deleted_at IS NULL AND id > $2
            ORDER BY id LIMIT $3::integer)
        UNION ALL
        (SELECT id FROM tasks WHERE status = 'in_progress' AND deleted_at IS NULL AND id > $2
            ORDER BY id LIMIT $3::integer)
    ) AS open
    ORDER BY id LIMIT $3::integer
),
locked AS MATERIALIZED (
    SELECT t.id, t.title, t.assigned_to
    FROM (SELECT id FROM page ORDER BY id) AS p
    CROSS JOIN LATERAL (
        SELECT id, title, assigned_to FROM tasks WHERE tasks.id = p.id AND deleted_at IS NULL FOR KEY SHARE
    ) AS t
),
active AS MATERIALIZED (
    SELECT l.id, l.title, l.assigned_to, v.status
    FROM locked AS l
    CROSS JOIN LATERAL (SELECT status FROM task_view WHERE task_view.id = l.id OFFSET 0) AS v
),
{ADD}"""  # noqa: S608 - both parts are constants
COPY_PAST = f"""
WITH page AS MATERIALIZED (
    SELECT id FROM tasks WHERE id > $2 ORDER BY id LIMIT $3::integer
),
locked AS MATERIALIZED (
    SELECT t.id, t.title, t.assigned_to
    FROM (SELECT id FROM page ORDER BY id) AS p
    CROSS JOIN LATERAL (
        SELECT id, title, assigned_to FROM tasks
        WHERE tasks.id = p.id AND created_at < $6 AND (deleted_at IS NULL OR deleted_at >= $6)
            AND (status IS NULL OR status IN ('pending', 'in_progress') OR status_at >= $6)
        FOR KEY SHARE
    ) AS t
),
active AS MATERIALIZED (
    SELECT l.id, l.title, l.assigned_to, coalesce(h.new_status, 'pending') AS status
    FROM locked AS l
    CROSS JOIN LATERAL (
        SELECT FROM task_view AS v
        WHERE v.id = l.id AND (v.processed_at IS NULL OR v.processed_at >= $6)
        OFFSET 0
    ) AS was_open
    LEFT JOIN LATERAL (
        SELECT new_status FROM task_history
        WHERE task_history.task_id = l.id AND at < $6
        ORDER BY task_history.id DESC LIMIT 1
    ) AS h ON true
),
{ADD}"""  # noqa: S608 - both parts are constants


@dataclass(frozen=True, slots=True)
class EntryRow:
    """A task as it was on a day."""

    id: UUID
    number: int
    date: date
    task_id: UUID
    title: str
    status: str
    assigned_to: str | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Chunk:
    """What a chunk came to; `last` is where the next one goes on, None when there is nothing more."""

    last: UUID | None
    added: int


COLUMNS = tuple(daily_log.c[name] for name in EntryRow.__dataclass_fields__)


# -- writing
# ----------------------------------------------------------------------------------------------------------
async def copy_present(connection: AsyncConnection, day: date, after: UUID) -> Chunk:
    """Copy the next tasks that are open now into the day's log, each once whoever else does it too."""
    return await _copy(connection, COPY_PRESENT, day, after)


async def copy_past(connection: AsyncConnection, day: date, after: UUID, end: datetime) -> Chunk:
    """Copy the next tasks that were open at `end`, the end of that day, as far as is known.

    The status is what people saw it become last before then; who held it or what it was called,
    only the present tells.
    """
    return await _copy(connection, COPY_PAST, day, after, end)


async def _copy(
    connection: AsyncConnection, statement: str, day: date, after: UUID, *more: Any
) -> Chunk:
    ids = [new_id() for _ in range(CHUNK)]
    row = await (await raw(connection)).fetchrow(statement, day, after, CHUNK, ids, [*OPEN], *more)
    if row is None:  # it always gives one
        raise AssertionError(day)
    return Chunk(row["last"] if row["seen"] == CHUNK else None, row["added"])


async def note_load(connection: AsyncConnection, day: date) -> int:
    """Write that the day has been taken, and return how many entries it has."""
    entries = select(func.count()).where(daily_log.c.date == day).scalar_subquery()
    statement = insert(daily_loads).values(date=day, entries=entries)
    again = {"entries": statement.excluded.entries, "loaded_at": func.clock_timestamp()}
    statement = statement.on_conflict_do_update(index_elements=[daily_loads.c.date], set_=again)
    return int((await connection.execute(statement.returning(daily_loads.c.entries))).scalar_one())


async def loaded_days(connection: AsyncConnection, since: date) -> tuple[date | None, set[date]]:
    """The first day that was ever taken, and all from `since` on."""
    first: date | None = await connection.scalar(select(func.min(daily_loads.c.date)))
    rows = await connection.execute(select(daily_loads.c.date).where(daily_loads.c.date >= since))
    return first, set(rows.scalars())


# -- reading
# ----------------------------------------------------------------------------------------------------------
async def list_entries(
    connection: AsyncConnection, day: date | None, limit: int, cursor: str | None = None
) -> tuple[list[EntryRow], str | None]:
    """One page of a day in the order of the numbers, or of all days, the newest first; and the next
    page's cursor.

    Raises InvalidFieldError for a bad cursor.
    """
    statement = _of_day(day, cursor) if day else _of_all_days(cursor)
    found = [EntryRow(*row) for row in await connection.execute(statement.limit(limit + 1))]
    if len(found) <= limit:
        return found, None
    last = found[limit - 1]
    return found[:limit], encode_cursor(last.number) if day else encode_cursor(
        last.date.isoformat(), last.number
    )


def _of_day(day: date, cursor: str | None) -> Select[Any]:
    after = decode_cursor(cursor, int)[0] if cursor is not None else 0
    d = daily_log.c
    return select(*COLUMNS).where(d.date == day, d.number > after).order_by(d.number)


def _of_all_days(cursor: str | None) -> Select[Any]:
    d = daily_log.c
    statement = select(*COLUMNS).order_by(d.date.desc(), d.number.desc())
    if cursor is None:
        return statement
    text, number = decode_cursor(cursor, str, int)
    try:
        return statement.where(tuple_(d.date, d.number) < tuple_(date.fromisoformat(text), number))
    except ValueError:
        raise InvalidFieldError("cursor", NOT_OURS) from None


async def read_entry(connection: AsyncConnection, key: UUID | int) -> EntryRow | None:
    """One entry by its id or its number; None when there is none."""
    column = daily_log.c.number if isinstance(key, int) else daily_log.c.id
    row = (await connection.execute(select(*COLUMNS).where(column == key))).first()
    return EntryRow(*row) if row else None
