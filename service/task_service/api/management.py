"""The management port: probes, metrics and the operator's internal routes.

It is never exposed to users.
"""

from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated, Any
from uuid import UUID

import structlog
from fastapi import APIRouter, Depends, FastAPI, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, generate_latest
from pydantic import Field
from sqlalchemy.ext.asyncio import AsyncEngine

from task_service.api.answers import answer
from task_service.api.auth.trusted_issuers import Trust
from task_service.api.gauges import refresh
from task_service.api.health import Health, read_schema
from task_service.api.http.edge import NO_TELEMETRY, Edge
from task_service.api.http.problems import install_problems
from task_service.clocks import utc_now
from task_service.domain.errors import NotFoundError
from task_service.domain.outcomes import Reason
from task_service.migrations import NEEDS, code_revision
from task_service.queue import workers
from task_service.queue.workers import list_workers, release_worker
from task_service.schemas.tasks import Input
from task_service.schemas.types import parse_id
from task_service.services.queues import read_claimable
from task_service.settings import Settings
from task_service.store.database import raw

log = structlog.get_logger(__name__)

OPERATOR = "operator"
MAX_BODY_BYTES = 16_384


class ReleaseRequest(Input):
    """Request to release the tasks of a worker."""

    reason: Reason
    detail: str = Field(default="", max_length=500)


class DrainRequest(Input):
    """Request to drain a worker."""

    reason: Reason = Reason.DRAIN


def create_management_app(
    settings: Settings,
    engine: AsyncEngine,
    why_not_alive: Callable[[], str | None] | None = None,
    *,
    figures: bool = True,
) -> FastAPI:
    """Create the management application of an API or worker process.

    `why_not_alive` returns the reason of a failed liveness. `figures` adds the queue's figures to
    the metrics. While `app.state.draining` is true, the process is not ready.
    """
    app = FastAPI(
        title=f"{settings.app_name} management",
        openapi_url=None,
        redirect_slashes=False,
        telemetry=NO_TELEMETRY,
    )
    health = Health(engine, why_not_alive)
    trust = Trust(settings.trusted_issuers_file)

    async def operator_only(request: Request) -> None:
        authorization = request.headers.get("authorization") or ""
        await trust.fetch_keys(authorization.partition(" ")[2].strip())
        request.state.caller = trust.authenticate(authorization, OPERATOR)

    probes = _probes(health, engine if figures else None)
    internal = _internal(settings, engine)
    app.include_router(probes)
    app.include_router(internal, dependencies=[Depends(operator_only)])
    app.state.routers = [probes, internal]
    install_problems(app)
    app.state.draining, app.state.why_not_ready = False, lambda: None
    app.add_middleware(Edge, max_body_bytes=MAX_BODY_BYTES)
    return app


def _probe(why_not: str | None) -> Response:
    return (
        answer({"status": "ok"})
        if why_not is None
        else answer({"status": "unavailable", "reason": why_not}, 503)
    )


def _probes(health: Health, figures_of: AsyncEngine | None) -> APIRouter:
    router = APIRouter()

    @router.get("/livez")
    async def livez() -> Response:
        return _probe(health.why_dead())

    @router.get("/readyz")
    async def readyz(request: Request) -> Response:
        state = request.app.state
        return _probe(
            "draining"
            if state.draining
            else state.why_not_ready() or await health.why_not_started()
        )

    @router.get("/startupz")
    async def startupz() -> Response:
        return _probe(await health.why_not_started())

    @router.get("/metrics")
    async def metrics() -> Response:
        if figures_of is not None:
            await refresh(figures_of)
        return Response(generate_latest(REGISTRY), headers={"Content-Type": CONTENT_TYPE_LATEST})

    return router


async def _worker_id(worker_id: str) -> UUID:
    return parse_id("worker", worker_id)


WorkerId = Annotated[UUID, Depends(_worker_id)]


def _internal(settings: Settings, engine: AsyncEngine) -> APIRouter:
    router = APIRouter(prefix="/internal")
    # Each statement is its own transaction: a release of many tasks works in batches.
    statements = engine.execution_options(isolation_level="AUTOCOMMIT")

    @router.get("/queue")
    async def queue() -> Response:
        async with statements.connect() as connection:
            return answer(await read_claimable(connection))

    @router.get("/workers")
    async def registered() -> Response:
        async with statements.connect() as connection:
            return answer({"at": utc_now(), "workers": await list_workers(await raw(connection))})

    @router.post("/workers/{worker_id}/release")
    async def release(worker_id: WorkerId, wanted: ReleaseRequest) -> Response:
        async with statements.connect() as connection:
            done = await release_worker(await raw(connection), worker_id, wanted.reason)
        if done is None:
            raise NotFoundError("worker", worker_id)
        fields = asdict(done)
        log.info(
            "worker_released",
            worker_id=str(worker_id),
            reason=wanted.reason,
            detail=wanted.detail,
            **fields,
        )
        return answer({"worker_id": worker_id, **fields})

    @router.post("/workers/{worker_id}/drain")
    async def drain(worker_id: WorkerId, wanted: DrainRequest | None = None) -> Response:
        reason = wanted.reason if wanted else Reason.DRAIN
        async with statements.connect() as connection:
            state = await workers.drain(await raw(connection), worker_id, reason)
        if state is None:
            raise NotFoundError("worker", worker_id)
        log.info("worker_drain_asked", worker_id=str(worker_id), reason=reason)
        return answer({"worker_id": worker_id, "state": state})

    @router.get("/version")
    async def version() -> Response:
        return answer(await _versions(settings, engine))

    return router


async def _versions(settings: Settings, engine: AsyncEngine) -> dict[str, Any]:
    state = await read_schema(engine)
    return {
        "version": settings.version,
        "revision": state.revision if state else 0,
        "code_revision": code_revision(),
        "needs": NEEDS,
        "oldest_code": state.oldest_code if state else 0,
    }
