"""Tasks that need other tasks, and a worker that is only a row."""

from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import asyncpg
import httpx

from task_service.domain.outcomes import Outcome
from task_service.queue.claims import Bounds, Claim, claim
from task_service.queue.dependencies import resolve_dependents
from task_service.queue.results import Finished, finish_batch
from tests.support.task_api import TASKS, create_task


async def create_waiter(client: httpx.AsyncClient, *needs: str, **fields: Any) -> str:
    """Create a task that needs these, and return its id."""
    return str((await create_task(client, handler="noop", needs=list(needs), **fields))["id"])


async def read_task(client: httpx.AsyncClient, task: str) -> dict[str, Any]:
    """Return the task as the API shows it."""
    response = await client.get(f"{TASKS}/{task}")
    assert response.status_code == 200, response.text
    return dict(response.json())


async def queue_state(connection: asyncpg.Connection, task: str) -> str | None:
    """Return the state of the task's queue row, or None."""
    state: str | None = await connection.fetchval(
        "SELECT state FROM queue WHERE task_id = $1", task
    )
    return state


Connect = Callable[[], Awaitable[asyncpg.Connection]]
"""Type of the fixture `connect`."""


class FakeWorker:
    """A worker that is only a row. It claims and finishes tasks on request."""

    def __init__(self, connection: asyncpg.Connection, worker_id: UUID) -> None:
        self.connection, self.id = connection, worker_id
        self.held: dict[str, Claim] = {}

    async def claim(self) -> set[str]:
        """Claim all ready tasks and return their ids."""
        claims = await claim(self.connection, self.id, Bounds(["default"]), 100, start_at_once=True)
        self.held |= {str(c.task_id): c for c in claims}
        return {str(c.task_id) for c in claims}

    async def end(
        self, task: str, outcome: Outcome = Outcome.COMPLETED, *, settles: bool = True
    ) -> None:
        """Finish a claimed task; without `settles`, as a worker that dies before it settles."""
        held = self.held.pop(task)
        ended = await finish_batch(
            self.connection, self.id, [Finished(held.task_id, held.fence, outcome)]
        )
        assert not ended.lost
        if settles:
            await resolve_dependents(self.connection, ended.awaited)
