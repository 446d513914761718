"""Requests to the task endpoints of the API."""

from collections.abc import Awaitable, Callable
from typing import Any

import httpx

from task_service.api.routes.csv import ImportReport
from task_service.queue.claims import Claim

TASKS = "/api/v1/tasks"
BATCH, IMPORT, EXPORT = f"{TASKS}:batch", f"{TASKS}:import", f"{TASKS}:export"
ClaimTask = Callable[[str], Awaitable[Claim]]
"""Type of the fixture `claim_task`."""


async def create_task(client: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    """Create a task and return it."""
    response = await client.post(TASKS, json={"title": "a task"} | fields)
    assert response.status_code == 201, response.text
    return dict(response.json())


async def post_batch(client: httpx.AsyncClient, tasks: Any) -> httpx.Response:
    """Request the creation of several tasks."""
    return await client.post(BATCH, json={"tasks": tasks})


async def list_tasks(client: httpx.AsyncClient, **query: Any) -> list[dict[str, Any]]:
    """Return the tasks of every page."""
    items: list[dict[str, Any]] = []
    while True:
        page = (await client.get(TASKS, params=query)).json()
        items += page["items"]
        if page["next_cursor"] is None:
            return items
        query["cursor"] = page["next_cursor"]


async def upload_csv(
    client: httpx.AsyncClient, content: str | bytes, **options: Any
) -> httpx.Response:
    """Request the import of a CSV file."""
    content = content.encode() if isinstance(content, str) else content
    return await client.post(IMPORT, files={"file": ("tasks.csv", content, "text/csv")}, **options)


async def import_csv(
    client: httpx.AsyncClient, content: str | bytes, mode: str = "skip-invalid"
) -> ImportReport:
    """Import a CSV file and return the report."""
    response = await upload_csv(client, content, params={"mode": mode})
    assert response.status_code == 201, response.text
    return ImportReport.model_validate_json(response.content)
