"""Fixtures that start workers, in the test's process or as a process of their own."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from task_service.worker.handlers import Handler, Handlers
from task_service.worker.process import Worker
from tests.support.enqueue_clients import KINDS, Client
from tests.support.service_settings import settings_for
from tests.support.worker_command import WorkerCommand
from tests.support.worker_runs import StartCommand, StartWorker


@pytest_asyncio.fixture
async def start_worker(database: str, tmp_path: Path) -> AsyncIterator[StartWorker]:
    """Return a function that starts a worker with these handlers and settings.

    Each worker has a slot folder of its own by default. With `polls=False` a worker looks for tasks
    only when it is notified.
    """
    started: list[Worker] = []

    async def start(*handlers: Handler, polls: bool = True, **overrides: Any) -> Worker:
        values: dict[str, Any] = {
            "runtime_dir": tmp_path / str(len(started)),
            "shutdown_seconds": 5,
            "retry_base_seconds": 0.01,
        }
        url = str(overrides.pop("database_url", database))
        settings = settings_for(url, **(values | overrides))
        if not polls:
            settings = settings.model_copy(update={"poll_seconds": 3600.0})
        worker = Worker(settings, Handlers(handlers))
        await worker.start()
        started.append(worker)
        return worker

    yield start
    for worker in started:
        await worker.stop()


@pytest.fixture
def start_command(database: str, tmp_path: Path) -> Iterator[StartCommand]:
    """Return a function that starts `task-service worker`; afterwards kill it and print its log."""
    started: list[WorkerCommand] = []

    def start(**settings: object) -> WorkerCommand:
        command = WorkerCommand(database, tmp_path / f"worker-{len(started)}", **settings)
        started.append(command)
        return command

    yield start
    for command in started:
        command.kill()
        print(command.log())


@pytest.fixture(params=KINDS)
def client(request: pytest.FixtureRequest, database: str) -> Client:
    """Client that enqueues through each kind of connection."""
    return Client(request.param, database)
