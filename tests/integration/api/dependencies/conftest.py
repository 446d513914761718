"""Fixtures for tests of dependencies between tasks."""

from collections.abc import AsyncIterator

import asyncpg
import pytest_asyncio

from task_service.queue import dependencies
from tests.support.dependencies import Connect, FakeWorker
from tests.support.tasks import add_worker


@pytest_asyncio.fixture(autouse=True)
async def _blocked_tasks_have_dependencies(connection: asyncpg.Connection) -> AsyncIterator[None]:
    """Check that exactly the tasks with dependencies are blocked."""
    yield
    await dependencies.sweep(connection, everything=True)
    blocked = {
        row[0]
        for row in await connection.fetch("SELECT task_id FROM queue WHERE state = 'blocked'")
    }
    assert blocked == {
        row[0] for row in await connection.fetch("SELECT DISTINCT task_id FROM dependencies")
    }


@pytest_asyncio.fixture
async def connect(database: str) -> AsyncIterator[Connect]:
    """Function that opens further connections; their transactions end with the test."""
    opened: list[asyncpg.Connection] = []

    async def open_connection() -> asyncpg.Connection:
        opened.append(await asyncpg.connect(database))
        return opened[-1]

    yield open_connection
    for each in opened:
        await each.close()


@pytest_asyncio.fixture
async def worker(connection: asyncpg.Connection) -> FakeWorker:
    """Worker that is only a row."""
    return FakeWorker(connection, await add_worker(connection))
