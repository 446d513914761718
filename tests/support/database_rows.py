"""Reads of rows that tests compare."""

from typing import Any

import asyncpg


async def count_rows(connection: asyncpg.Connection, table: str = "tasks") -> int:
    """Return the number of rows of a table."""
    return int(await connection.fetchval(f"SELECT count(*) FROM {table}"))


async def queue_row(connection: asyncpg.Connection) -> dict[str, Any] | None:
    """Return the only row of the queue, or None."""
    row = await connection.fetchrow(
        "SELECT state, queue, priority, handler, max_attempts, attempt, fence FROM queue"
    )
    return dict(row) if row else None
