"""Unpaged lists in chunks. Each chunk is its own statement, so slow readers hold no transaction."""

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import date
from typing import TypeVar
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from task_service.services.transactions import TransactionManager
from task_service.store.app_settings import SettingRow, list_settings
from task_service.store.conversations import ConversationRow, list_conversations
from task_service.store.daily_log import EntryRow, list_entries
from task_service.store.tasks import TaskRow, read_after_number

CHUNK = 500
T = TypeVar("T")


async def all_tasks(transactions: TransactionManager) -> AsyncIterator[list[TaskRow]]:
    """Yield all tasks by number; the first chunk may be empty."""
    number, more = 0, True
    while more:
        async with transactions.read() as connection:
            rows = await read_after_number(connection, number, CHUNK)
        yield rows
        more = len(rows) == CHUNK
        number = rows[-1].number if more else 0


def all_conversations(
    transactions: TransactionManager, task_id: UUID
) -> AsyncIterator[list[ConversationRow]]:
    """Yield all conversations of a task by number."""
    return _chunks(
        transactions,
        lambda connection, cursor: list_conversations(connection, task_id, CHUNK, cursor),
    )


def all_settings(transactions: TransactionManager) -> AsyncIterator[list[SettingRow]]:
    """Yield all settings by key."""
    return _chunks(
        transactions, lambda connection, cursor: list_settings(connection, CHUNK, cursor)
    )


def all_entries(transactions: TransactionManager, day: date) -> AsyncIterator[list[EntryRow]]:
    """Yield all entries of a day's log."""
    return _chunks(
        transactions, lambda connection, cursor: list_entries(connection, day, CHUNK, cursor)
    )


async def _chunks(
    transactions: TransactionManager,
    read: Callable[[AsyncConnection, str | None], Awaitable[tuple[list[T], str | None]]],
) -> AsyncIterator[list[T]]:
    cursor, more = None, True
    while more:
        async with transactions.read() as connection:
            rows, cursor = await read(connection, cursor)
        yield rows
        more = cursor is not None
