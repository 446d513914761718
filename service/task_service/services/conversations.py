"""Add, change and remove conversations, in the caller's transaction (`Context.write`)."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from task_service.domain.errors import NotFoundError
from task_service.domain.principals import Principal
from task_service.schemas.tasks import ConversationChange, NewConversation
from task_service.services.context import Context
from task_service.store import conversations as store
from task_service.store.conversations import ConversationRow


async def add_conversations(
    context: Context,
    connection: AsyncConnection,
    task_id: UUID,
    new: Sequence[NewConversation],
    caller: Principal,
) -> list[ConversationRow]:
    """Add conversations to a task. Raises NotFoundError, ForbiddenError."""
    if not await _touch(context, connection, task_id, caller):
        raise NotFoundError("task", task_id)
    return await store.insert_conversations(connection, task_id, [{"body": c.body} for c in new])


async def change_conversation(
    context: Context,
    connection: AsyncConnection,
    conversation_id: UUID,
    wanted: ConversationChange,
    caller: Principal,
) -> ConversationRow:
    """Change a conversation. Raises NotFoundError when it, or its task, is gone; ForbiddenError."""
    row = await _open(context, connection, conversation_id, caller)
    given = {name: getattr(wanted, name) for name in wanted.model_fields_set}
    if not given:
        return row
    changed = await store.update_conversation(connection, conversation_id, given)
    if changed is None:
        raise NotFoundError("conversation", conversation_id)
    return changed


async def remove_conversation(
    context: Context, connection: AsyncConnection, conversation_id: UUID, caller: Principal
) -> None:
    """Remove a conversation for good. Raises NotFoundError when it, or its task, is gone; ForbiddenError."""
    await _open(context, connection, conversation_id, caller)
    if not await store.delete_conversation(connection, conversation_id):
        raise NotFoundError("conversation", conversation_id)


async def _open(
    context: Context, connection: AsyncConnection, conversation_id: UUID, caller: Principal
) -> ConversationRow:
    """The conversation, when the caller may change its task; that task's stamp rises."""
    row = await store.read_conversation(connection, conversation_id)
    if row is None or not await _touch(context, connection, row.task_id, caller):
        raise NotFoundError("conversation", conversation_id)
    return row


async def _touch(
    context: Context, connection: AsyncConnection, task_id: UUID, caller: Principal
) -> bool:
    """Raise the task's stamp, when there is such a task and the caller may change it."""
    parent = await store.touch_parent(connection, task_id)
    if parent is None:
        return False
    caller.require_change(parent.created_by, parent.assigned_to)
    await context.cache.forget(connection, task_id, parent.stamp)
    return True
