"""Workers inside the test's process, each with a slot folder of its own unless the test says otherwise."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest_asyncio

from task_service.worker.handlers import Handler, Handlers
from task_service.worker.process import Worker
from tests.integration.conftest import settings_for

StartWorker = Callable[..., Awaitable[Worker]]


@pytest_asyncio.fixture
async def start_worker(database: str, tmp_path: Path) -> AsyncIterator[StartWorker]:
    """A coroutine that starts a worker on this test's database, with these handlers and settings."""
    started: list[Worker] = []

    async def start(*handlers: Handler, **settings: Any) -> Worker:
        given = {"runtime_dir": tmp_path / str(len(started)), "shutdown_seconds": 5, "retry_base_seconds": 0.01}
        url = str(settings.pop("database_url", database))
        worker = Worker(settings_for(url, **(given | settings)), Handlers(handlers))
        await worker.start()
        started.append(worker)
        return worker

    yield start
    for worker in started:
        await worker.stop()
