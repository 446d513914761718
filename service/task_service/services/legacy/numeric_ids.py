"""Tasks and conversations by the numeric ids of services C and D, or by UUID."""

from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from task_service.domain.errors import NotFoundError
from task_service.schemas.types import parse_id, parse_number
from task_service.services.transactions import TransactionManager
from task_service.store.conversations import find_conversation_id
from task_service.store.tasks import find_task_id, read_task_number


async def find_task(transactions: TransactionManager, key: str) -> UUID:
    """Return the id of the task with this number or id. Raises NotFoundError."""
    return await _find(transactions, "task", key, find_task_id)


async def find_conversation(transactions: TransactionManager, key: str) -> UUID:
    """Return the id of the conversation with this number or id. Raises NotFoundError."""
    return await _find(transactions, "conversation", key, find_conversation_id)


async def read_number(connection: AsyncConnection, task_id: UUID) -> int:
    """Return a task's number. Raises NotFoundError."""
    number = await read_task_number(connection, task_id)
    if number is None:
        raise NotFoundError("task", task_id)
    return number


async def _find(
    transactions: TransactionManager,
    what: str,
    key: str,
    find: Callable[[Any, int], Awaitable[UUID | None]],
) -> UUID:
    number = parse_number(key)
    if number is None:
        return parse_id(what, key)
    async with transactions.read() as connection:
        row_id = await find(connection, number)
    if row_id is None:
        raise NotFoundError(what, key)
    return row_id
