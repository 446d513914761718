"""Add, change and remove conversations, in the caller's transaction (`Context.write`)."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from task_service.domain.errors import NotFoundError
from task_service.domain.principals import Principal
from task_service.services.inputs import ConversationChange, NewConversation
from task_service.store import conversations as store
from task_service.store.conversations import ConversationRow


async def add_conversations(
    connection: AsyncConnection, task_id: UUID, new: Sequence[NewConversation], caller: Principal
) -> list[ConversationRow]:
    """Add conversations to a task. Raises NotFoundError, ForbiddenError."""
    parent = await store.touch_parent(connection, task_id)
    if parent is None:
        raise NotFoundError("task", task_id)
    caller.require_change(parent.created_by, parent.assigned_to)
    return await store.insert_conversations(connection, task_id, [{"body": c.body} for c in new])


async def change_conversation(
    connection: AsyncConnection, conversation_id: UUID, wanted: ConversationChange, caller: Principal
) -> ConversationRow:
    """Change a conversation. Raises NotFoundError when it, or its task, is gone; ForbiddenError."""
    row = await _open(connection, conversation_id, caller)
    given = {name: getattr(wanted, name) for name in wanted.model_fields_set}
    if not given:
        return row
    changed = await store.update_conversation(connection, conversation_id, given)
    if changed is None:
        raise NotFoundError("conversation", conversation_id)
    return changed


async def remove_conversation(connection: AsyncConnection, conversation_id: UUID, caller: Principal) -> None:
    """Remove a conversation for good. Raises NotFoundError when it, or its task, is gone; ForbiddenError."""
    await _open(connection, conversation_id, caller)
    if not await store.delete_conversation(connection, conversation_id):
        raise NotFoundError("conversation", conversation_id)


async def _open(connection: AsyncConnection, conversation_id: UUID, caller: Principal) -> ConversationRow:
    """The conversation, when the caller may change its task; that task's stamp rises."""
    row = await store.read_conversation(connection, conversation_id)
    parent = await store.touch_parent(connection, row.task_id) if row else None
    if row is None or parent is None:
        raise NotFoundError("conversation", conversation_id)
    caller.require_change(parent.created_by, parent.assigned_to)
    return row
