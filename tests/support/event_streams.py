"""Helpers for tests of event streams."""

import asyncio
from typing import Any
from uuid import UUID, uuid4

import asyncpg
from fastapi import FastAPI

from task_service.settings import Settings
from tests.support.service_settings import settings_for
from tests.support.sse import open_stream
from tests.support.waiting import eventually

EVENTS = "/api/v1/events"
INSERT_CHANGE = (
    "INSERT INTO task_history (task_id, new_status, changed_by) VALUES ($1, 'pending', $2)"
)
IDS_IN_ORDER = """
    SELECT transaction_id::text || '.' || id AS place FROM task_history
    ORDER BY transaction_id, id
"""


def default_lease_settings(url: str, **more: Any) -> Settings:
    """Return settings with the default leases, so that slow transactions are not ended."""
    return settings_for(
        url, heartbeat_seconds=3, lease_seconds=15, db_pool_timeout_seconds=1, **more
    )


async def add_task(connection: asyncpg.Connection) -> UUID:
    """Insert a task without history, and return its id."""
    task_id = uuid4()
    await connection.execute(
        "INSERT INTO tasks (id, title, status) VALUES ($1, 'a', 'pending')", task_id
    )
    return task_id


async def wait_for_no_streams(app: FastAPI) -> None:
    """Wait until no stream is open."""

    async def probe() -> bool:
        return not app.state.events._streams

    await eventually("the end of all streams", probe)


async def read_ids(url: str, after: str, number: int) -> list[str]:
    """Return the ids of the next events."""
    async with open_stream(url, after) as stream:
        return [m.id for m in await stream.wait_for_count(number)]


async def stalled_client(url: str, after: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Open a stream and read nothing beyond what the buffer of the client takes."""
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=1024)
    writer.write(f"GET {EVENTS} HTTP/1.1\r\nhost: x\r\nlast-event-id: {after}\r\n\r\n".encode())
    await reader.readuntil(b"\r\n\r\n")
    return reader, writer


async def holds(value: Any) -> bool:
    """Return the truth of a value; turns an expression into a probe of `eventually`."""
    return bool(value)
