"""Daily loader: copies the tasks that are active on a day into the daily log, each task once per
day.

A load consists of many short transactions, so that it holds no lock for long. It is safe to repeat,
also after a load that was interrupted or while another process loads the same day. A day is a date
in DAILY_LOG_TIME_ZONE; the current time is the database's.
"""

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from uuid import UUID

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from task_service.domain.cron import parse_zone
from task_service.domain.errors import InvalidFieldError, NotFoundError
from task_service.schemas.types import parse_id, parse_number
from task_service.services.transactions import Transaction, TransactionManager
from task_service.store import daily_log as store
from task_service.store.database import ping
from task_service.store.schedules import database_time

CATCH_UP_DAYS = 31
log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Load:
    """Result of a load: the number of entries of the day, and how many of them this load added."""

    date: date
    entries: int
    added: int


async def find_entry(transactions: TransactionManager, key: str) -> store.EntryRow:
    """Read the entry with this number or id. Raises NotFoundError."""
    number = parse_number(key)
    wanted = parse_id("entry", key) if number is None else number
    async with transactions.read() as connection:
        entry = await store.read_entry(connection, wanted)
    if entry is None:
        raise NotFoundError("entry", key[:100])
    return entry


async def read_today(transactions: TransactionManager) -> date:
    """Return today's date in DAILY_LOG_TIME_ZONE by the database's clock."""
    async with transactions.read() as connection:
        now = await database_time(connection)
    return now.astimezone(parse_zone(transactions.settings.daily_log_time_zone)).date()


async def run(
    transactions: TransactionManager,
    day: date | None = None,
    waiting: AsyncConnection | None = None,
) -> Load:
    """Load a day, by default today. Raises InvalidFieldError for a day in the future.

    `waiting` is the connection of a caller whose transaction waits for the load. The load keeps it
    alive, because the server ends transactions that are idle for long.
    """
    today = await read_today(transactions)
    if day is not None and day > today:
        raise InvalidFieldError("date", f"must not be in the future; today is {today} here")
    return await load(transactions, day or today, today, waiting)


async def catch_up(transactions: TransactionManager) -> list[Load]:
    """Load each day that was missed since the first load (at most the last 31 days), then today."""
    today = await read_today(transactions)
    since = today - timedelta(days=CATCH_UP_DAYS)
    async with transactions.read() as connection:
        first, loaded = await store.loaded_days(connection, since)
    begin = max(since, first) if first else today
    days = [begin + timedelta(days=n) for n in range((today - begin).days)]
    missed = [day for day in days if day not in loaded]
    return [await load(transactions, day, today) for day in [*missed, today]]


async def load(
    transactions: TransactionManager,
    day: date,
    today: date,
    waiting: AsyncConnection | None = None,
) -> Load:
    """Copy the tasks that are active now if the day is today, else those that were active when the
    day ended.
    """
    end = None if day == today else end_of(day, transactions.settings.daily_log_time_zone)
    added, after = 0, store.BEGINNING
    while True:
        chunk = await _copy(transactions, day, after, end)
        added += chunk.added
        if waiting is not None:
            await ping(waiting)
        if chunk.last is None:
            break
        after = chunk.last
    entries = await transactions.write(lambda t: store.note_load(t.sql, day))
    log.info("daily_log_loaded", date=day.isoformat(), entries=entries, added=added)
    return Load(day, entries, added)


async def _copy(
    transactions: TransactionManager, day: date, after: UUID, end: datetime | None
) -> store.Chunk:
    async def copy(transaction: Transaction) -> store.Chunk:
        if end is None:
            chunk = await store.copy_present(transaction.sql, day, after)
        else:
            chunk = await store.copy_past(transaction.sql, day, after, end)
        if chunk.added:
            await transaction.cache.forget_daily_log(transaction.sql)
        return chunk

    return await transactions.write(copy)


def end_of(day: date, zone: str) -> datetime:
    """Return the moment in UTC at which a day ends in a time zone.

    >>> end_of(date(2026, 3, 29), "Europe/Berlin").isoformat()  # a day of 23 hours
    '2026-03-29T22:00:00+00:00'
    """
    return datetime.combine(day + timedelta(days=1), time(), parse_zone(zone)).astimezone(UTC)
