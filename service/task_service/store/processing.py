"""What handlers write, on the connection of their transaction."""

from uuid import UUID

from task_service.store.database import Executes

PROCESS_CONVERSATIONS = """
    UPDATE conversations SET status = 'processed', processed_at = clock_timestamp(), updated_at = clock_timestamp()
    WHERE task_id = $1 AND status = 'pending'
"""


async def process_conversations(connection: Executes, task_id: UUID) -> None:
    """Mark the task's open conversations processed."""
    await connection.execute(PROCESS_CONVERSATIONS, task_id)
