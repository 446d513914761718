"""What handlers write, on the connection of their transaction."""

from typing import Any, Protocol
from uuid import UUID

PROCESS_CONVERSATIONS = """
    UPDATE conversations SET status = 'processed', processed_at = clock_timestamp(), updated_at = clock_timestamp()
    WHERE task_id = $1 AND status = 'pending'
"""


class Executes(Protocol):
    """An asyncpg connection, or its pool's stand-in for one."""

    async def execute(self, query: str, /, *args: Any) -> str:
        """Run one statement."""
        ...


async def process_conversations(connection: Executes, task_id: UUID) -> None:
    """Mark the task's open conversations processed."""
    await connection.execute(PROCESS_CONVERSATIONS, task_id)
