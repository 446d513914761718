"""Tasks and conversations by the numeric ids of services C and D, or by UUID."""

from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from task_service.domain.errors import NotFoundError
from task_service.schemas.types import parse_id, parse_number
from task_service.services.context import Context
from task_service.store.conversations import find_conversation_id
from task_service.store.tasks import find_task_id, read_task_number


async def find_task(context: Context, key: str) -> UUID:
    """Return the id of the task with this number or id. Raises NotFoundError."""
    return await _find(context, "task", key, find_task_id)


async def find_conversation(context: Context, key: str) -> UUID:
    """Return the id of the conversation with this number or id. Raises NotFoundError."""
    return await _find(context, "conversation", key, find_conversation_id)


async def number_of(connection: AsyncConnection, task_id: UUID) -> int:
    """Return a task's number. Raises NotFoundError."""
    number = await read_task_number(connection, task_id)
    if number is None:
        raise NotFoundError("task", task_id)
    return number


async def _find(
    context: Context, what: str, key: str, find: Callable[[Any, int], Awaitable[UUID | None]]
) -> UUID:
    number = parse_number(key)
    if number is None:
        return parse_id(what, key)
    async with context.reading() as connection:
        found = await find(connection, number)
    if found is None:
        raise NotFoundError(what, key)
    return found
