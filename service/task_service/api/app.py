"""The public HTTP application."""

from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.responses import RedirectResponse
from sqlalchemy.ext.asyncio import AsyncEngine

from task_service.api import compat
from task_service.api.compat.d_errors import ErrorFormatD
from task_service.api.dependencies import WorkerStatus
from task_service.api.http.documentation import install_documentation
from task_service.api.http.edge import NO_TELEMETRY, Edge
from task_service.api.http.problems import Problem, install_problems
from task_service.api.http.sse import write_event
from task_service.api.routers import public_routes
from task_service.api.security import document_security, install_security
from task_service.loops.cache_watch import watch_cache
from task_service.loops.events import events_loop
from task_service.loops.folding import folding_loop
from task_service.loops.loop import Background
from task_service.queue.wakeups import Wakeups
from task_service.services.events.broadcaster import Broadcaster
from task_service.services.single_flight import SingleFlight
from task_service.services.transactions import TransactionManager
from task_service.settings import Settings

DESCRIPTION = """
Manual tasks and tasks that workers run.

Errors are `application/problem+json` (RFC 9457) with a stable `code`. Lists are pages with a
`next_cursor`. `If-Match` with an `ETag` prevents lost updates. The paths of the services A to E
work at the root and under `/compat/a` to `/compat/e`.
"""
TAGS = [
    {"name": "tasks", "description": "Create, find, change, cancel, retry and delete tasks."},
    {"name": "conversations", "description": "Messages of a task."},
    {"name": "events", "description": "A live stream of changes to tasks."},
    {
        "name": "queues and workers",
        "description": "Queue figures; pause and resume queues, release and drain workers.",
    },
    {"name": "schedules", "description": "Cron expressions and the tasks that they create."},
    {"name": "daily log", "description": "The daily snapshot of active tasks."},
    {"name": "settings", "description": "Key-value settings of applications."},
    {
        "name": "users and tokens",
        "description": "Log in, refresh, log out; administrators register and change users.",
    },
    {"name": "audit log", "description": "The changes of all tasks, with their authors."},
    *compat.TAGS,
]


def create_app(
    settings: Settings,
    engine: AsyncEngine,
    wakeups: Wakeups,
    worker: WorkerStatus | None = None,
) -> FastAPI:
    """Create the public application. It opens no connections; the caller disposes of the engine.

    `worker` is the worker in the same process, if any. While `app.state.draining` is true, every
    response closes its connection.
    """
    app = FastAPI(
        title=settings.app_name,
        version=settings.version,
        description=DESCRIPTION,
        openapi_tags=TAGS,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        telemetry=NO_TELEMETRY,
    )
    app.state.transactions = TransactionManager(settings, engine, wakeups)
    app.state.single_flight = SingleFlight()
    app.state.worker = worker
    app.state.draining = False
    background: list[Background] = [folding_loop(engine, settings.heartbeat_seconds)]
    background += watch_cache(settings, app.state.transactions.cache)
    app.state.events = Broadcaster(app.state.transactions, write_event)
    background += [app.state.events, events_loop(app.state.events, settings.event_poll_seconds)]
    app.state.background = background
    app.add_api_route("/", _to_documentation, include_in_schema=False)
    install_documentation(app)
    own = APIRouter()
    own.routes.extend(app.routes)  # the documentation pages
    public = public_routes(settings.root_compatibility)
    app.state.routers = [own, *public.routers]
    app.router.routes.extend(public.served)
    install_problems(app)
    app.add_middleware(
        Edge, max_body_bytes=settings.max_body_bytes, larger=_larger_bodies(settings),
        debug=settings.debug and settings.environment != "production",
    )  # fmt: skip
    app.add_middleware(
        ErrorFormatD, prefixes=compat.path_prefixes_of_d(settings.root_compatibility)
    )
    install_security(app, settings)
    _document_problems(app)
    return app


def _larger_bodies(settings: Settings) -> dict[str, int]:
    """Return the limits of the paths that accept larger bodies."""
    uploads = ("/api/v1/tasks:import", "/upload-csv", "/compat/d/upload-csv")
    more = dict.fromkeys(
        (*uploads, *(f"{path}/" for path in uploads[1:])), settings.max_upload_bytes
    )
    return more | {"/api/v1/tasks:batch": max(settings.max_batch_bytes, settings.max_body_bytes)}


async def _to_documentation() -> RedirectResponse:
    return RedirectResponse("/docs")


def _document_problems(app: FastAPI) -> None:
    """Add the schema of problems, which the routes reference, to the OpenAPI document."""
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = plain()
            definition = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas = schema.setdefault("components", {}).setdefault("schemas", {})
            schemas |= definition.pop("$defs", {}) | {"Problem": definition}
            document_security(schema, app.state.routers, is_open=app.state.authenticator.open)
        return app.openapi_schema or {}

    app.openapi = openapi  # type: ignore[method-assign]
