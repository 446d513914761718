"""Service A's paths: `/api/python/v1/tasks`.

A task is `{id, title, description, status}`, with the status in upper case.
"""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field

from task_service.api.answers import answer
from task_service.api.compat.common import Route, make_router, stream_array
from task_service.api.compat.manual_tasks import ManualTasks, new_task
from task_service.api.dependencies import Transactions
from task_service.services.legacy.unpaged_lists import all_tasks
from task_service.store.tasks import TaskRow

BASE = "/api/python/v1/tasks"


class TaskA(BaseModel):
    """A task in service A's format."""

    id: UUID
    title: str
    description: str | None
    status: str = Field(examples=["PENDING", "IN_PROGRESS", "COMPLETED"])


def show_task(t: TaskRow) -> dict[str, Any]:
    """Convert a task to service A's format."""
    return {"id": t.id, "title": t.title, "description": t.description, "status": t.status.upper()}


def task_answer(t: TaskRow, status: int, headers: Mapping[str, str]) -> Response:
    """Build the response for one task."""
    return answer(show_task(t), status, headers)


async def list_tasks(transactions: Transactions) -> Response:
    """Return all tasks, as a stream."""
    return await stream_array(all_tasks(transactions), show_task)


TASKS = ManualTasks(task_answer)
ROUTES = (
    Route("POST", BASE, TASKS.create_task, TaskA, 201, responses=new_task(TaskA)),
    Route("GET", BASE, list_tasks, list[TaskA]),
    Route("GET", BASE + "/{task_id}", TASKS.read_task, TaskA),
    Route("PUT", BASE + "/{task_id}", TASKS.update_task, TaskA),
    Route("DELETE", BASE + "/{task_id}", TASKS.delete_task, status=204),
)


def routers() -> list[APIRouter]:
    """Return service A's routers, at the root and under `/compat/a`."""
    return [make_router("A", prefix, ROUTES) for prefix in ("", "/compat/a")]
