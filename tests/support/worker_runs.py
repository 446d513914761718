"""Tasks for the sample handlers, and what tests of workers wait for."""

from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import asyncpg

from task_service.worker.process import Worker
from tests.support.tasks import add_tasks
from tests.support.waiting import eventually
from tests.support.worker_command import WorkerCommand

StartWorker = Callable[..., Awaitable[Worker]]
StartCommand = Callable[..., WorkerCommand]


async def add_handler_task(
    connection: asyncpg.Connection, handler: str, do: str, **payload: Any
) -> UUID:
    """Add a task whose sample handler runs the function named `do`.

    It has one attempt by default. `max_attempts` and `timeout_seconds` set fields of the task.
    """
    options: dict[str, Any] = {"max_attempts": 1}
    options |= {n: payload.pop(n) for n in ("timeout_seconds", "max_attempts") if n in payload}
    [task] = await add_tasks(connection, handler=handler, payload={"do": do} | payload, **options)
    return task


async def wait_for_end(
    connection: asyncpg.Connection, task: UUID, seconds: float = 30
) -> dict[str, Any]:
    """Wait for the task's final run and return its row."""

    async def find_final_run() -> asyncpg.Record | None:
        return await connection.fetchrow("SELECT * FROM runs WHERE task_id = $1 AND final", task)

    return dict(await eventually("the task's end", find_final_run, seconds))
