"""Conversations of a task. All functions run in the caller's transaction and see only tasks that
are not deleted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Select, Text, cast, delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from task_service.domain.ids import new_id
from task_service.store.cursors import decode_cursor, encode_cursor
from task_service.store.tables import conversations, tasks


@dataclass(frozen=True, slots=True)
class ConversationRow:
    """A conversation; `body` is JSON text."""

    id: UUID
    number: int
    task_id: UUID
    body: str
    status: str
    created_at: datetime
    updated_at: datetime
    processed_at: datetime | None


COLUMNS = tuple(
    cast(conversations.c.body, Text) if name == "body" else conversations.c[name]
    for name in ConversationRow.__dataclass_fields__
)
INSERTION = insert(conversations).returning(*COLUMNS)
LIVE = (tasks.c.id == conversations.c.task_id) & tasks.c.deleted_at.is_(None)


def _read() -> Select[Any]:
    return select(*COLUMNS).join(tasks, LIVE)


@dataclass(frozen=True, slots=True)
class Parent:
    """The task of a conversation: whose it is, and its stamp after this change."""

    created_by: str | None
    assigned_to: str | None
    stamp: int


async def touch_parent(connection: AsyncConnection, task_id: UUID) -> Parent | None:
    """Lock the task and raise its stamp (what its readers see has changed); None when there is no
    such task.
    """
    statement = (
        update(tasks)
        .where(tasks.c.id == task_id, tasks.c.deleted_at.is_(None))
        .values(stamp=tasks.c.stamp + 1)
        .returning(tasks.c.created_by, tasks.c.assigned_to, tasks.c.stamp)
    )
    row = (await connection.execute(statement)).first()
    return Parent(*row) if row else None


async def insert_conversations(
    connection: AsyncConnection, task_id: UUID, given: Sequence[Mapping[str, Any]]
) -> list[ConversationRow]:
    """Insert conversations (their `body`) in their order."""
    if not given:
        return []
    rows = [{"id": new_id(), "task_id": task_id, **values} for values in given]
    made = await connection.execute(INSERTION, rows)
    return sorted((ConversationRow(*row) for row in made), key=lambda c: c.number)


async def read_conversation(
    connection: AsyncConnection, conversation_id: UUID
) -> ConversationRow | None:
    """One conversation; None when it, or its task, is gone."""
    row = (await connection.execute(_read().where(conversations.c.id == conversation_id))).first()
    return ConversationRow(*row) if row else None


async def find_conversation_id(connection: AsyncConnection, number: int) -> UUID | None:
    """The id of the conversation that service C's clients know by this number."""
    return await connection.scalar(
        select(conversations.c.id).where(conversations.c.number == number)
    )


async def list_conversations(
    connection: AsyncConnection, task_id: UUID, limit: int, cursor: str | None = None
) -> tuple[list[ConversationRow], str | None]:
    """One page of a task's conversations, oldest first, and the next page's cursor."""
    after = decode_cursor(cursor, int)[0] if cursor is not None else 0
    rows = await read_after_number(connection, task_id, after, limit + 1)
    return rows[:limit], encode_cursor(rows[limit - 1].number) if len(rows) > limit else None


async def read_after_number(
    connection: AsyncConnection, task_id: UUID, number: int, limit: int
) -> list[ConversationRow]:
    """The next conversations of a task in the order of their numbers."""
    c = conversations.c
    statement = (
        _read().where(c.task_id == task_id, c.number > number).order_by(c.number).limit(limit)
    )
    return [ConversationRow(*row) for row in await connection.execute(statement)]


async def update_conversation(
    connection: AsyncConnection, conversation_id: UUID, values: Mapping[str, Any]
) -> ConversationRow | None:
    """Write `body` and `status`; None when it, or its task, is gone."""
    statement = (
        update(conversations)
        .where(conversations.c.id == conversation_id, LIVE)
        .values({**_stamped(values), "updated_at": func.clock_timestamp()})
        .returning(*COLUMNS)
    )
    row = (await connection.execute(statement)).first()
    return ConversationRow(*row) if row else None


async def delete_conversation(connection: AsyncConnection, conversation_id: UUID) -> bool:
    """Remove a conversation for good; False when it, or its task, is gone."""
    statement = delete(conversations).where(conversations.c.id == conversation_id, LIVE)
    return (await connection.execute(statement.returning(conversations.c.id))).first() is not None


def _stamped(values: Mapping[str, Any]) -> dict[str, Any]:
    if "status" not in values:
        return dict(values)
    return {
        **values,
        "processed_at": func.clock_timestamp() if values["status"] == "processed" else None,
    }
