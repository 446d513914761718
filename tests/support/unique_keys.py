"""Tasks with a unique key."""

from typing import Any

import asyncpg
import httpx

from task_service.domain.outcomes import Outcome
from task_service.queue.claims import Claim
from task_service.queue.results import Finished, finish
from tests.support.task_api import TASKS


async def post_unique(client: httpx.AsyncClient, key: str = "k", **fields: Any) -> httpx.Response:
    """Request a task with this unique key."""
    return await client.post(
        TASKS, json={"title": "a task", "unique_key": key, "handler": "noop"} | fields
    )


async def create_new(client: httpx.AsyncClient, key: str = "k", **fields: Any) -> str:
    """Create a new task and return its id."""
    response = await post_unique(client, key, **fields)
    assert response.status_code == 201, response.text
    return str(response.json()["id"])


async def get_existing(client: httpx.AsyncClient, key: str = "k", **fields: Any) -> str:
    """Request a task whose key is held; return the id of the existing task."""
    response = await post_unique(client, key, **fields)
    assert response.status_code == 200, response.text
    return str(response.json()["id"])


async def finish_claim(
    connection: asyncpg.Connection, claim: Claim, outcome: Outcome = Outcome.COMPLETED
) -> None:
    """Finish the claim as its worker."""
    worker = await connection.fetchval(
        "SELECT worker_id FROM queue WHERE task_id = $1", claim.task_id
    )
    assert await finish(connection, worker, [Finished(claim.task_id, claim.fence, outcome)])
