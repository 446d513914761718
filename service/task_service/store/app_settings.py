"""Application settings that people keep here, by key. All runs in the caller's transaction."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Text, cast, delete, func, literal_column, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from task_service.store.cursors import decode_cursor, encode_cursor
from task_service.store.tables import settings


@dataclass(frozen=True, slots=True)
class SettingRow:
    """An application setting; `value` is JSON text."""

    key: str
    value: str
    description: str | None
    version: int
    updated_by: str | None
    created_at: datetime
    updated_at: datetime


COLUMNS = tuple(
    cast(settings.c.value, Text) if name == "value" else settings.c[name]
    for name in SettingRow.__dataclass_fields__
)


async def list_settings(
    connection: AsyncConnection, limit: int, cursor: str | None = None
) -> tuple[list[SettingRow], str | None]:
    """One page in the order of the keys, and the next page's cursor. Raises InvalidFieldError for a
    bad cursor.
    """
    statement = select(*COLUMNS).order_by(settings.c.key).limit(limit + 1)
    if cursor is not None:
        statement = statement.where(settings.c.key > decode_cursor(cursor, str)[0])
    found = [SettingRow(*row) for row in await connection.execute(statement)]
    return found[:limit], encode_cursor(found[limit - 1].key) if len(found) > limit else None


async def read_setting(
    connection: AsyncConnection, key: str, *, lock: bool = False
) -> SettingRow | None:
    """One setting, locked for a change if asked; None when there is none."""
    statement = select(*COLUMNS).where(settings.c.key == key)
    row = (await connection.execute(statement.with_for_update() if lock else statement)).first()
    return SettingRow(*row) if row else None


async def insert_setting(
    connection: AsyncConnection, key: str, values: dict[str, Any]
) -> SettingRow | None:
    """Make a setting; None when there is one of that key (it waits for one that is being made)."""
    statement = (
        insert(settings).values(key=key, **values).on_conflict_do_nothing().returning(*COLUMNS)
    )
    row = (await connection.execute(statement)).first()
    return SettingRow(*row) if row else None


async def put_setting(
    connection: AsyncConnection, key: str, values: dict[str, Any]
) -> tuple[SettingRow, bool]:
    """Make or replace a setting; also tell whether it is new."""
    changes = {**values, "version": settings.c.version + 1, "updated_at": func.clock_timestamp()}
    statement = insert(settings).values(key=key, **values)
    statement = statement.on_conflict_do_update(index_elements=[settings.c.key], set_=changes)
    # A row that was inserted just now has never been locked or replaced by anybody.
    row = (
        await connection.execute(statement.returning(*COLUMNS, literal_column("xmax = 0")))
    ).one()
    return SettingRow(*row[:-1]), bool(row[-1])


async def delete_setting(connection: AsyncConnection, key: str) -> None:
    """Remove a setting for good."""
    await connection.execute(delete(settings).where(settings.c.key == key))
