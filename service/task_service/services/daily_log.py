"""The daily loader: the tasks that are active on a day, copied into the daily log once each, whoever loads it and when.

A load is many short transactions of its own, so that no lock is held for long; one that broke off is just done again.
A day is a date in DAILY_LOG_TIME_ZONE, and the present is the database's.
"""

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from uuid import UUID

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from task_service.domain.cron import parse_zone
from task_service.domain.errors import InvalidFieldError, NotFoundError
from task_service.schemas.types import parse_id, parse_number
from task_service.services.context import Context
from task_service.store import daily_log as store
from task_service.store.database import ping
from task_service.store.schedules import database_time

MOST_MISSED_DAYS = 31
log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Load:
    """What a load came to: entries that the day has, and how many of them it added."""

    date: date
    entries: int
    added: int


async def find_entry(context: Context, key: str) -> store.EntryRow:
    """The entry with this number or id. Raises NotFoundError."""
    number = parse_number(key)
    wanted = parse_id("entry", key) if number is None else number
    async with context.reading() as connection:
        entry = await store.read_entry(connection, wanted)
    if entry is None:
        raise NotFoundError("entry", key[:100])
    return entry


async def present_day(context: Context) -> date:
    """Today."""
    async with context.reading() as connection:
        now = await database_time(connection)
    return now.astimezone(parse_zone(context.settings.daily_log_time_zone)).date()


async def run(
    context: Context, wanted: date | None = None, waiting: AsyncConnection | None = None
) -> Load:
    """Load a day, today unless another is wanted. Raises InvalidFieldError for one that is still to come.

    `waiting` is the transaction of the caller who waits for it: the server ends those that are silent for long.
    """
    today = await present_day(context)
    if wanted is not None and wanted > today:
        raise InvalidFieldError("date", f"must not be in the future; today is {today} here")
    return await load(context, wanted or today, today, waiting)


async def catch_up(context: Context) -> list[Load]:
    """Load the days that were missed since the first one was taken (at most the last 31), then today."""
    today = await present_day(context)
    since = today - timedelta(days=MOST_MISSED_DAYS)
    async with context.reading() as connection:
        first, done = await store.loaded_days(connection, since)
    begin = max(since, first) if first else today
    days = [begin + timedelta(days=n) for n in range((today - begin).days)]
    return [await load(context, day, today) for day in [*(d for d in days if d not in done), today]]


async def load(
    context: Context, day: date, today: date, waiting: AsyncConnection | None = None
) -> Load:
    """Copy the tasks that are active now, for today, or were at the end of a day that is past."""
    end = None if day == today else end_of(day, context.settings.daily_log_time_zone)
    added, after = 0, store.BEGINNING
    while True:
        chunk = await _copy(context, day, after, end)
        added += chunk.added
        if waiting is not None:
            await ping(waiting)
        if chunk.last is None:
            break
        after = chunk.last
    entries = await context.write(lambda c: store.note_load(c, day))
    log.info("daily_log_loaded", date=day.isoformat(), entries=entries, added=added)
    return Load(day, entries, added)


async def _copy(context: Context, day: date, after: UUID, end: datetime | None) -> store.Chunk:
    async def copy(connection: AsyncConnection) -> store.Chunk:
        if end is None:
            chunk = await store.copy_present(connection, day, after)
        else:
            chunk = await store.copy_past(connection, day, after, end)
        if chunk.added:
            await context.cache.forget_daily_log(connection)
        return chunk

    return await context.write(copy)


def end_of(day: date, zone: str) -> datetime:
    """The moment in UTC at which a day ends in a time zone.

    >>> end_of(date(2026, 3, 29), "Europe/Berlin").isoformat()  # a day of 23 hours
    '2026-03-29T22:00:00+00:00'
    """
    return datetime.combine(day + timedelta(days=1), time(), parse_zone(zone)).astimezone(UTC)
