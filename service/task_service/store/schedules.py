"""Schedules: what people see and change of them, and which are due. All runs in the caller's
transaction.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Select, Text, cast, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from task_service.domain.ids import new_id
from task_service.store.cursors import decode_cursor, encode_cursor
from task_service.store.database import Driver
from task_service.store.tables import schedules


@dataclass(frozen=True, slots=True)
class ScheduleRow:
    """A schedule; `template` is JSON text, None of the product's own (`action` says what they do)."""

    id: UUID
    name: str
    cron: str
    time_zone: str
    action: str
    template: str | None
    catch_up: str
    enabled: bool
    next_run_at: datetime | None
    last_run_at: datetime | None
    last_task_id: UUID | None
    last_error: str | None
    version: int
    created_by: str | None
    created_at: datetime
    updated_at: datetime


COLUMNS = tuple(
    cast(schedules.c.template, Text) if name == "template" else schedules.c[name]
    for name in ScheduleRow.__dataclass_fields__
)
DUE = (schedules.c.enabled, schedules.c.next_run_at <= func.clock_timestamp())
DUE_ACTIONS = str(select(schedules.c.action).where(*DUE).distinct())


async def database_time(connection: AsyncConnection) -> datetime:
    """The present time by the database's clock, which all instances share."""
    now: datetime = (await connection.execute(select(func.clock_timestamp()))).scalar_one()
    return now


async def list_schedules(
    connection: AsyncConnection, limit: int, cursor: str | None = None
) -> tuple[list[ScheduleRow], str | None]:
    """One page in the order of the names, and the next page's cursor. Raises InvalidFieldError for
    a bad cursor.
    """
    statement = select(*COLUMNS).order_by(schedules.c.name).limit(limit + 1)
    if cursor is not None:
        statement = statement.where(schedules.c.name > decode_cursor(cursor, str)[0])
    found = [ScheduleRow(*row) for row in await connection.execute(statement)]
    return found[:limit], encode_cursor(found[limit - 1].name) if len(found) > limit else None


async def read_schedule(
    connection: AsyncConnection, schedule_id: UUID, *, lock: bool = False
) -> ScheduleRow | None:
    """One schedule, locked for a change if asked; None when there is none."""
    statement = select(*COLUMNS).where(schedules.c.id == schedule_id)
    row = (await connection.execute(statement.with_for_update() if lock else statement)).first()
    return ScheduleRow(*row) if row else None


async def insert_schedule(
    connection: AsyncConnection, values: Mapping[str, Any]
) -> ScheduleRow | None:
    """Make a schedule; None when there is one of that name (it waits for one that is being made)."""
    statement = (
        insert(schedules).values(id=new_id(), **values).on_conflict_do_nothing().returning(*COLUMNS)
    )
    row = (await connection.execute(statement)).first()
    return ScheduleRow(*row) if row else None


async def update_schedule(
    connection: AsyncConnection, schedule_id: UUID, values: Mapping[str, Any]
) -> ScheduleRow | None:
    """Write a person's change, and raise the version; None when another schedule has that name."""
    values = {**values, "version": schedules.c.version + 1, "updated_at": func.clock_timestamp()}
    statement = (
        update(schedules).where(schedules.c.id == schedule_id).values(values).returning(*COLUMNS)
    )
    try:
        async with connection.begin_nested():
            return ScheduleRow(*(await connection.execute(statement)).one())
    except IntegrityError:
        return None


async def delete_schedule(connection: AsyncConnection, schedule_id: UUID) -> None:
    """Remove a schedule for good; what it made stays."""
    await connection.execute(delete(schedules).where(schedules.c.id == schedule_id))


async def due_actions(connection: Driver) -> set[str]:
    """What is due at this moment: `task`, `daily_log`, both or nothing."""
    return {row[0] for row in await connection.fetch(DUE_ACTIONS)}


async def own_time(connection: Driver, action: str) -> tuple[str, str] | None:
    """Cron and time zone of the product's own schedule of this action; None when there is none."""
    row = await connection.fetchrow(
        "SELECT cron, time_zone FROM schedules WHERE action = $1", action
    )
    return tuple(row) if row else None


async def read_due(connection: AsyncConnection, action: str) -> ScheduleRow | None:
    """The schedule that has been due for the longest time, not locked."""
    row = (await connection.execute(_longest_due(action))).first()
    return ScheduleRow(*row) if row else None


async def lock_due(connection: AsyncConnection, action: str) -> ScheduleRow | None:
    """The schedule that has been due for the longest time, locked; those that another instance is
    at are skipped.
    """
    row = (await connection.execute(_longest_due(action).with_for_update(skip_locked=True))).first()
    return ScheduleRow(*row) if row else None


def _longest_due(action: str) -> Select[Any]:
    return (
        select(*COLUMNS)
        .where(schedules.c.action == action, *DUE)
        .order_by(schedules.c.next_run_at)
        .limit(1)
    )


async def note_run(
    connection: AsyncConnection, schedule: ScheduleRow, next_run_at: datetime | None, **outcome: Any
) -> None:
    """Write when a schedule runs next and what came of this run (`last_…`). The version stays:
    nobody edited it.

    Nothing is written when it has been changed meanwhile, and its next time with it.
    """
    s = schedules.c
    same = (
        s.id == schedule.id,
        s.version == schedule.version,
        s.next_run_at.is_not_distinct_from(schedule.next_run_at),
    )
    await connection.execute(
        update(schedules).where(*same).values(next_run_at=next_run_at, **outcome)
    )


async def lock_own(connection: AsyncConnection, action: str) -> ScheduleRow | None:
    """The product's own schedule of this action, locked; None when there is none."""
    row = (
        await connection.execute(
            select(*COLUMNS).where(schedules.c.action == action).with_for_update()
        )
    ).first()
    return ScheduleRow(*row) if row else None
