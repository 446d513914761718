"""Limits that people have set, with what they allow at this moment. All runs in the caller's
transaction.
"""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import case, delete, func, literal_column, select, tuple_
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from task_service.store.cursors import decode_cursor, encode_cursor
from task_service.store.tables import limit_rooms, limits


@dataclass(frozen=True, slots=True)
class LimitRow:
    """A limit of a queue or a key; `admitted` are the tasks under it that are in line for a worker
    or running.
    """

    kind: str
    name: str
    concurrency: int | None
    rate: int | None
    period_seconds: float | None
    admitted: int
    updated_by: str | None
    updated_at: datetime


COLUMNS = tuple(limit_rooms.c[name] for name in LimitRow.__dataclass_fields__)
KEY = (limit_rooms.c.kind, limit_rooms.c.name)


async def list_limits(
    connection: AsyncConnection, limit: int, cursor: str | None = None
) -> tuple[list[LimitRow], str | None]:
    """One page by kind and name, and the next page's cursor. Raises InvalidFieldError for a bad
    cursor.
    """
    statement = select(*COLUMNS).order_by(*KEY).limit(limit + 1)
    if cursor is not None:
        statement = statement.where(tuple_(*KEY) > decode_cursor(cursor, str, str))
    found = [LimitRow(*row) for row in await connection.execute(statement)]
    return found[:limit], encode_cursor(found[limit - 1].kind, found[limit - 1].name) if len(
        found
    ) > limit else None


async def read_limit(connection: AsyncConnection, kind: str, name: str) -> LimitRow | None:
    """One limit; None when there is none."""
    statement = select(*COLUMNS).where(limit_rooms.c.kind == kind, limit_rooms.c.name == name)
    row = (await connection.execute(statement)).first()
    return LimitRow(*row) if row else None


async def put_limit(
    connection: AsyncConnection,
    key: tuple[str, str],
    concurrency: int | None,
    rate: int | None,
    period_seconds: float | None,
    by: str,
) -> bool:
    """Set a limit; tell whether it is new. A new rate begins with a full bucket, a changed one with
    what was left.
    """
    kind, name = key
    statement = insert(limits).values(
        kind=kind, name=name, concurrency=concurrency, rate=rate, period_seconds=period_seconds, tokens=rate or 0,
        updated_by=by,
    )  # fmt: skip
    new, had_rate = statement.excluded, limits.c.rate.is_not(None)
    changes = {
        "concurrency": new.concurrency,
        "rate": new.rate,
        "period_seconds": new.period_seconds,
        "tokens": case((had_rate, func.least(limits.c.tokens, new.tokens)), else_=new.tokens),
        "tokens_at": case((had_rate, limits.c.tokens_at), else_=func.clock_timestamp()),
        "updated_by": new.updated_by,
        "updated_at": func.clock_timestamp(),
    }
    statement = statement.on_conflict_do_update(
        index_elements=[limits.c.kind, limits.c.name], set_=changes
    )
    # A row that was inserted just now has never been locked or replaced by anybody.
    return bool(await connection.scalar(statement.returning(literal_column("xmax = 0"))))


async def delete_limit(connection: AsyncConnection, kind: str, name: str) -> bool:
    """Remove a limit; False when there is none."""
    statement = (
        delete(limits).where(limits.c.kind == kind, limits.c.name == name).returning(limits.c.name)
    )
    return (await connection.execute(statement)).first() is not None
