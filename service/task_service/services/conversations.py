"""Add, change and remove conversations, each inside the caller's transaction."""

from collections.abc import Sequence
from uuid import UUID

from task_service.domain.errors import NotFoundError
from task_service.domain.principals import Principal
from task_service.schemas.tasks import ConversationChange, NewConversation
from task_service.services.transactions import Transaction
from task_service.store import conversations as store
from task_service.store.conversations import ConversationRow


async def add_conversations(
    transaction: Transaction, task_id: UUID, new: Sequence[NewConversation], caller: Principal
) -> list[ConversationRow]:
    """Add conversations to a task. Raises NotFoundError, ForbiddenError."""
    if not await _touch_task(transaction, task_id, caller):
        raise NotFoundError("task", task_id)
    bodies = [{"body": c.body} for c in new]
    return await store.insert_conversations(transaction.sql, task_id, bodies)


async def change_conversation(
    transaction: Transaction, conversation_id: UUID, wanted: ConversationChange, caller: Principal
) -> ConversationRow:
    """Change a conversation. Raises ForbiddenError; NotFoundError when it or its task does not
    exist.
    """
    row = await _open(transaction, conversation_id, caller)
    values = {name: getattr(wanted, name) for name in wanted.model_fields_set}
    if not values:
        return row
    changed = await store.update_conversation(transaction.sql, conversation_id, values)
    if changed is None:
        raise NotFoundError("conversation", conversation_id)
    return changed


async def remove_conversation(
    transaction: Transaction, conversation_id: UUID, caller: Principal
) -> None:
    """Delete a conversation. Raises ForbiddenError; NotFoundError when it or its task does not
    exist.
    """
    await _open(transaction, conversation_id, caller)
    if not await store.delete_conversation(transaction.sql, conversation_id):
        raise NotFoundError("conversation", conversation_id)


async def _open(
    transaction: Transaction, conversation_id: UUID, caller: Principal
) -> ConversationRow:
    """Return the conversation if the caller may change its task, and increment the task's version
    stamp.
    """
    row = await store.read_conversation(transaction.sql, conversation_id)
    if row is None or not await _touch_task(transaction, row.task_id, caller):
        raise NotFoundError("conversation", conversation_id)
    return row


async def _touch_task(transaction: Transaction, task_id: UUID, caller: Principal) -> bool:
    """Increment the task's version stamp if the caller may change it; False when there is no such
    task.
    """
    parent = await store.touch_parent(transaction.sql, task_id)
    if parent is None:
        return False
    caller.require_change(parent.created_by, parent.assigned_to)
    await transaction.cache.forget(transaction.sql, task_id, parent.stamp)
    return True
