"""Workers, in the test's process or beside it, each with a slot folder of its own unless the test says otherwise."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest
import pytest_asyncio

from task_service.worker.handlers import Handler, Handlers
from task_service.worker.process import Worker
from tests.support.service_settings import settings_for
from tests.support.tasks import add_tasks
from tests.support.waiting import eventually
from tests.support.worker_command import WorkerCommand

StartWorker = Callable[..., Awaitable[Worker]]
StartCommand = Callable[..., WorkerCommand]


async def add(connection: asyncpg.Connection, handler: str, do: str, **more: Any) -> UUID:
    """A task that is to do this, with one attempt unless the test says otherwise."""
    options = {name: more.pop(name) for name in ("timeout_seconds", "max_attempts") if name in more}
    options = {"max_attempts": 1} | options
    [task] = await add_tasks(connection, handler=handler, payload={"do": do} | more, **options)
    return task


async def end_of(connection: asyncpg.Connection, task: UUID, seconds: float = 30) -> dict[str, Any]:
    """The task's final run, once there is one."""

    async def final() -> asyncpg.Record | None:
        return await connection.fetchrow("SELECT * FROM runs WHERE task_id = $1 AND final", task)

    return dict(await eventually("the task's end", final, seconds))


@pytest_asyncio.fixture
async def start_worker(database: str, tmp_path: Path) -> AsyncIterator[StartWorker]:
    """A coroutine that starts a worker on this test's database, with these handlers and settings.

    `polls=False`: it does nothing unless it is woken.
    """
    started: list[Worker] = []

    async def start(*handlers: Handler, polls: bool = True, **settings: Any) -> Worker:
        given = {
            "runtime_dir": tmp_path / str(len(started)),
            "shutdown_seconds": 5,
            "retry_base_seconds": 0.01,
        }
        url = str(settings.pop("database_url", database))
        made = settings_for(url, **(given | settings))
        worker = Worker(
            made if polls else made.model_copy(update={"poll_seconds": 3600.0}), Handlers(handlers)
        )
        await worker.start()
        started.append(worker)
        return worker

    yield start
    for worker in started:
        await worker.stop()


@pytest.fixture
def start_command(database: str, tmp_path: Path) -> Iterator[StartCommand]:
    """Start `task-service worker` with these settings; what is left of it is killed in the end, and its log shown."""
    started: list[WorkerCommand] = []

    def start(**settings: object) -> WorkerCommand:
        command = WorkerCommand(database, tmp_path / f"worker-{len(started)}", **settings)
        started.append(command)
        return command

    yield start
    for command in started:
        command.kill()
        print(command.log())
