"""`/api/v1/queues` and `/api/v1/workers`: figures and the operations of operators."""

from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Path, Query, Response
from pydantic import BaseModel, Field

from task_service.api.answers import answer
from task_service.api.auth.access import MAY_READ, AuthorizedRoute, OperatorRole
from task_service.api.dependencies import Transactions
from task_service.api.http.idempotency import Idempotent
from task_service.api.http.problems import documented
from task_service.domain.fields import NAME_PATTERN
from task_service.domain.outcomes import Reason
from task_service.queue.workers import list_workers
from task_service.schemas.tasks import Because, Input
from task_service.schemas.types import parse_id
from task_service.services import queues as service
from task_service.store.database import raw

router = APIRouter(route_class=AuthorizedRoute, prefix="/api/v1", tags=["queues and workers"])


class Figures(BaseModel):
    """Numbers of waiting and running tasks."""

    ready: int = Field(description="Due tasks that wait for a worker.")
    scheduled: int = Field(description="Tasks that are not due yet.")
    running: int
    blocked: int = Field(description="Due tasks that wait for a limit or for other tasks.")
    oldest_age_seconds: float = Field(description="Seconds since the oldest ready task became due.")


class Queue(Figures):
    """One queue's figures."""

    name: str
    paused: bool = Field(description="Whether workers claim no tasks from this queue.")
    paused_reason: str | None
    paused_by: str | None
    paused_at: datetime | None


class QueueDetail(Queue):
    """One queue's figures and rates."""

    at: datetime
    arrivals_per_second: float = Field(
        description="Tasks created for workers, averaged over the last minute."
    )
    completions_per_second: float = Field(
        description="Tasks that workers ended, averaged over the last minute."
    )


class Queues(Figures):
    """All queues that have a task to run or are paused, and their totals."""

    at: datetime
    queues: list[Queue]


class Worker(BaseModel):
    """A worker process."""

    id: UUID
    state: Literal["active", "draining", "dead"]
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
    running: int = Field(description="Number of tasks that the worker holds.")


class WorkerDetail(Worker):
    """A worker process with the state of its lease."""

    expired: bool = Field(
        description="Whether the worker is dead, or will be soon because its lease has expired."
    )


class Workers(BaseModel):
    """Worker processes: live ones, and those that died within the last hour."""

    at: datetime
    workers: list[Worker]


class ReleaseRequest(Input):
    """Reason why a worker is given up. `crash` and `oom` count as attempts of its tasks."""

    reason: Literal[
        "crash", "oom", "eviction", "node", "deleted", "rollout", "drain", "scale_down", "unknown"
    ] = "unknown"


class ReleaseResult(BaseModel):
    """Result of a release."""

    worker_id: UUID
    released: int = Field(description="Tasks that other workers may claim now.")
    failed: int = Field(description="Tasks that had no attempts left.")
    explained: int = Field(description="Lost attempts whose reason was unknown and is known now.")
    already_dead: bool = Field(
        description="Whether its successor, or the end of its lease, released the worker earlier."
    )


class DrainResult(BaseModel):
    """A worker that was asked to claim no more tasks."""

    worker_id: UUID
    state: Literal["active", "draining", "dead"]


QueueName = Annotated[
    str, Path(pattern=NAME_PATTERN, description="The queue's name.", examples=["default"])
]
Force = Annotated[
    bool,
    Query(description="Release a live worker too. The results of its running tasks are discarded."),
]


async def worker_id_of(worker_id: Annotated[str, Path(description="The worker's UUID.")]) -> UUID:
    """Parse the worker id in the path."""
    return parse_id("worker", worker_id)


WorkerId = Annotated[UUID, Depends(worker_id_of)]


@router.get("/queues", response_model=Queues, responses=documented(), dependencies=[MAY_READ])
async def read_queues(transactions: Transactions) -> Response:
    """Return the numbers of tasks and the age of the oldest, in total and per queue."""
    async with transactions.read() as connection:
        return answer(await service.read_queues(connection))


@router.get(
    "/queues/{name}", response_model=QueueDetail, responses=documented(), dependencies=[MAY_READ]
)
async def read_queue(transactions: Transactions, name: QueueName) -> Response:
    """Return the numbers of tasks, the oldest age and the rates of one queue.

    All are 0 for a queue that nobody uses.
    """
    async with transactions.read() as connection:
        return answer(await service.read_queue(connection, name))


@router.post(
    "/queues/{name}:pause", response_model=QueueDetail, responses=documented(400, 413, 415)
)
async def pause_queue(
    caller: OperatorRole, idempotent: Idempotent, name: QueueName, body: Because | None = None
) -> Response:
    """Pause a queue: workers claim no more tasks from it.

    Tasks that workers hold continue, and new tasks can be added.
    """
    reason = body.reason if body else None
    return await idempotent.write(lambda t: service.pause(t, name, reason, caller), answer)


@router.post("/queues/{name}:resume", response_model=QueueDetail, responses=documented())
async def resume_queue(caller: OperatorRole, idempotent: Idempotent, name: QueueName) -> Response:
    """Resume a queue: workers claim its tasks again immediately."""
    return await idempotent.write(lambda t: service.resume(t, name, caller), answer)


@router.get("/workers", response_model=Workers, responses=documented(), dependencies=[MAY_READ])
async def read_workers(transactions: Transactions) -> Response:
    """Return the worker processes with their leases and the number of tasks that each holds."""
    async with transactions.read() as connection:
        return answer(
            {"at": transactions.clock(), "workers": await list_workers(await raw(connection))}
        )


@router.get(
    "/workers/{worker_id}",
    response_model=WorkerDetail,
    responses=documented(404),
    dependencies=[MAY_READ],
)
async def read_worker(transactions: Transactions, worker_id: WorkerId) -> Response:
    """Return one worker process, even if it died more than an hour ago."""
    async with transactions.read() as connection:
        return answer(await service.read_worker(connection, worker_id))


@router.post(
    "/workers/{worker_id}:release",
    response_model=ReleaseResult,
    responses=documented(400, 404, 409, 413, 415),
)
async def release_worker(
    caller: OperatorRole,
    idempotent: Idempotent,
    worker_id: WorkerId,
    body: ReleaseRequest | None = None,
    force: Force = False,
) -> Response:
    """Release the tasks of a dead worker, so that other workers can claim them. Idempotent.

    The response is 409 if the worker is alive, unless `force` is set.
    """
    reason = Reason(body.reason if body else "unknown")
    return await idempotent.write(
        lambda t: service.release(t, worker_id, reason, caller, force=force),
        lambda done: answer({"worker_id": worker_id, **asdict(done)}),
    )


@router.post("/workers/{worker_id}:drain", response_model=DrainResult, responses=documented(404))
async def drain_worker(
    caller: OperatorRole, idempotent: Idempotent, worker_id: WorkerId
) -> Response:
    """Ask a worker to claim no more tasks. It finishes the tasks that it holds."""
    return await idempotent.write(
        lambda t: service.drain(t, worker_id, caller),
        lambda state: answer({"worker_id": worker_id, "state": state}),
    )
