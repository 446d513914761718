"""Add, change and remove conversations: each function is the whole of one transaction's work."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from task_service.api.context import Context
from task_service.api.models import ConversationChange, NewConversation
from task_service.domain.errors import NotFoundError
from task_service.store import conversations as store
from task_service.store.conversations import ConversationRow


async def add_conversations(context: Context, task_id: UUID, new: Sequence[NewConversation]) -> list[ConversationRow]:
    """Add conversations to a task; NotFoundError when there is no such task."""

    async def add(connection: AsyncConnection) -> list[ConversationRow]:
        if await store.lock_parent(connection, task_id) is None:
            raise NotFoundError("task", task_id)
        return await store.insert_conversations(connection, task_id, [{"body": c.body} for c in new])

    return await context.write(add)


async def change_conversation(context: Context, conversation_id: UUID, wanted: ConversationChange) -> ConversationRow:
    """Change a conversation; NotFoundError when it, or its task, is gone."""
    given = {name: getattr(wanted, name) for name in wanted.model_fields_set}

    async def change(connection: AsyncConnection) -> ConversationRow | None:
        if not given:
            return await store.read_conversation(connection, conversation_id)
        return await store.update_conversation(connection, conversation_id, given)

    row = await context.write(change)
    if row is None:
        raise NotFoundError("conversation", conversation_id)
    return row


async def remove_conversation(context: Context, conversation_id: UUID) -> None:
    """Remove a conversation for good; NotFoundError when it, or its task, is gone."""

    async def remove(connection: AsyncConnection) -> bool:
        return await store.delete_conversation(connection, conversation_id)

    if not await context.write(remove):
        raise NotFoundError("conversation", conversation_id)
