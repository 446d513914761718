"""`/api/v1/queues` and `/api/v1/workers`: figures, and what operators do with them."""

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
    """How much waits and runs."""

    ready: int = Field(description="Due, and waiting for a worker.")
    scheduled: int = Field(description="Waiting for their time.")
    running: int
    blocked: int
    oldest_age_seconds: float = Field(description="How long the oldest ready task has been due.")


class Queue(Figures):
    """One queue's figures."""

    name: str
    paused: bool = Field(description="Workers claim nothing from it.")
    paused_reason: str | None
    paused_by: str | None
    paused_at: datetime | None


class QueueDetail(Queue):
    """One queue's figures and rates."""

    at: datetime
    arrivals_per_second: float = Field(description="Tasks made for workers, of the last minute.")
    completions_per_second: float = Field(
        description="Tasks that workers ended, of the last minute."
    )


class Queues(Figures):
    """All queues that have a task to run or are paused, and their sums."""

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
    running: int = Field(description="Tasks that it holds.")


class WorkerDetail(Worker):
    """A worker process."""

    expired: bool = Field(description="It is dead, or its lease is over and it soon will be.")


class Workers(BaseModel):
    """The worker processes: living ones, and those that died within the last hour."""

    at: datetime
    workers: list[Worker]


class Loss(Input):
    """Why a worker is given up; crash and oom count as attempts of its tasks."""

    reason: Literal[
        "crash", "oom", "eviction", "node", "deleted", "rollout", "drain", "scale_down", "unknown"
    ] = "unknown"


class Released(BaseModel):
    """What a release did."""

    worker_id: UUID
    released: int = Field(description="Tasks that others may claim now.")
    failed: int = Field(description="Tasks that had no attempt left.")
    explained: int = Field(description="Lost attempts whose unknown reason is known now.")
    already_dead: bool = Field(
        description="Whether its successor or the end of its lease came first."
    )


class Drained(BaseModel):
    """A worker that was asked to claim no more."""

    worker_id: UUID
    state: Literal["active", "draining", "dead"]


QueueName = Annotated[
    str, Path(pattern=NAME_PATTERN, description="The queue's name.", examples=["default"])
]
Force = Annotated[
    bool, Query(description="Also one that lives; what its handlers do meanwhile is thrown away.")
]


async def worker_id_of(worker_id: Annotated[str, Path(description="The worker's UUID.")]) -> UUID:
    """The worker's id in the path."""
    return parse_id("worker", worker_id)


WorkerId = Annotated[UUID, Depends(worker_id_of)]


@router.get("/queues", response_model=Queues, responses=documented(), dependencies=[MAY_READ])
async def read_queues(transactions: Transactions) -> Response:
    """How many tasks wait and run, in all and per queue, and how old the oldest is."""
    async with transactions.read() as connection:
        return answer(await service.read_queues(connection))


@router.get(
    "/queues/{name}", response_model=QueueDetail, responses=documented(), dependencies=[MAY_READ]
)
async def read_queue(transactions: Transactions, name: QueueName) -> Response:
    """One queue's depth, oldest age and rates; zeros for one that nobody uses."""
    async with transactions.read() as connection:
        return answer(await service.read_queue(connection, name))


@router.post(
    "/queues/{name}:pause", response_model=QueueDetail, responses=documented(400, 413, 415)
)
async def pause_queue(
    caller: OperatorRole, idempotent: Idempotent, name: QueueName, because: Because | None = None
) -> Response:
    """Let workers claim nothing more from a queue. What they hold goes on, and tasks can be added."""
    reason = because.reason if because else None
    return await idempotent.write(lambda t: service.pause(t, name, reason, caller), answer)


@router.post("/queues/{name}:resume", response_model=QueueDetail, responses=documented())
async def resume_queue(caller: OperatorRole, idempotent: Idempotent, name: QueueName) -> Response:
    """Let workers claim from a queue again, at once."""
    return await idempotent.write(lambda t: service.resume(t, name, caller), answer)


@router.get("/workers", response_model=Workers, responses=documented(), dependencies=[MAY_READ])
async def read_workers(transactions: Transactions) -> Response:
    """The worker processes with their leases and how many tasks each holds."""
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
    """One worker process, also one that has been dead for longer."""
    async with transactions.read() as connection:
        return answer(await service.read_worker(connection, worker_id))


@router.post(
    "/workers/{worker_id}:release",
    response_model=Released,
    responses=documented(400, 404, 409, 413, 415),
)
async def release_worker(
    caller: OperatorRole,
    idempotent: Idempotent,
    worker_id: WorkerId,
    loss: Loss | None = None,
    force: Force = False,
) -> Response:
    """Give the tasks of a dead worker to others. 409 for one that lives, unless by force. Idempotent."""
    reason = Reason(loss.reason if loss else "unknown")
    return await idempotent.write(
        lambda t: service.release(t, worker_id, reason, caller, force=force),
        lambda done: answer({"worker_id": worker_id, **asdict(done)}),
    )


@router.post("/workers/{worker_id}:drain", response_model=Drained, responses=documented(404))
async def drain_worker(
    caller: OperatorRole, idempotent: Idempotent, worker_id: WorkerId
) -> Response:
    """Ask a worker to claim no more; what it holds it may finish."""
    return await idempotent.write(
        lambda t: service.drain(t, worker_id, caller),
        lambda state: answer({"worker_id": worker_id, "state": state}),
    )
