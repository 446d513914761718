"""Waits for transactions that wait for a lock."""

import asyncpg

from tests.support.waiting import eventually

WAITING_SESSIONS = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND wait_event_type = 'Lock'
"""


async def wait_for_blocked_sessions(connection: asyncpg.Connection, count: int) -> None:
    """Wait until this many sessions of the database wait for a lock."""

    async def is_reached() -> bool:
        return bool(await connection.fetchval(WAITING_SESSIONS) == count)

    await eventually(f"{count} sessions that wait for a lock", is_reached)
