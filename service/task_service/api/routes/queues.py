"""`/api/v1/queues` and `/api/v1/workers`: figures to look at."""

from datetime import datetime
from uuid import UUID

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field

from task_service.api.answers import answer
from task_service.api.problems import documented
from task_service.api.routes.tasks import Shared
from task_service.queue.figures import list_workers, queue_figures
from task_service.store.database import raw

router = APIRouter(prefix="/api/v1", tags=["queues and workers"])


class Figures(BaseModel):
    """How much waits and runs."""

    ready: int = Field(description="Due, and waiting for a worker.")
    scheduled: int = Field(description="Waiting for their time.")
    running: int
    blocked: int
    oldest_age_seconds: float = Field(description="How long the oldest ready task has been due.")


class Queue(Figures):
    """One queue's figures."""

    name: str


class Queues(Figures):
    """All queues that have a task to run, and their sums."""

    at: datetime
    queues: list[Queue]


class Worker(BaseModel):
    """A worker process: a living one, or one that died within the last hour."""

    id: UUID
    state: str = Field(description="active, draining or dead")
    pod_name: str | None
    pod_uid: str | None
    container: str | None
    slot: str
    node: str | None
    version: str
    queues: list[str]
    concurrency: int
    process_started_at: datetime
    registered_at: datetime
    heartbeat_at: datetime
    lease_expires_at: datetime
    dead_at: datetime | None = None
    dead_reason: str | None = None
    running: int = Field(description="Tasks that it holds.")


class Workers(BaseModel):
    """The worker processes."""

    at: datetime
    workers: list[Worker]


@router.get("/queues", response_model=Queues, responses=documented())
async def read_queues(context: Shared) -> Response:
    """How many tasks wait and run, in all and per queue, and how old the oldest is."""
    async with context.reading() as connection:
        return answer(await queue_figures(await raw(connection)))


@router.get("/workers", response_model=Workers, responses=documented())
async def read_workers(context: Shared) -> Response:
    """The worker processes with their leases and how many tasks each holds."""
    async with context.reading() as connection:
        return answer({"at": context.clock(), "workers": await list_workers(await raw(connection))})
