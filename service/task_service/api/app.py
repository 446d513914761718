"""The public HTTP application."""

from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import RedirectResponse
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncEngine

from task_service.api.compat import c
from task_service.api.context import Context, WorkerStatus
from task_service.api.edge import Edge
from task_service.api.problems import Problem, install_problems
from task_service.api.routes import conversations, queues, tasks
from task_service.queue.wakeups import Wakeups
from task_service.settings import Settings

DESCRIPTION = """
Tasks for people and for workers. Errors are `application/problem+json` (RFC 9457) with a stable `code`; lists are pages
with a `next_cursor`; an `ETag` guards changes by `If-Match`. Service C's own paths work at the root and under
`/compat/c`.
"""
TAGS = [
    {"name": "tasks", "description": "Create, find, change, cancel, retry and delete tasks."},
    {"name": "conversations", "description": "What belongs to a task."},
    {"name": "queues and workers", "description": "Figures to look at."},
    {"name": "service C", "description": "The paths of service C: integer ids, lists without pages."},
]


def create_app(
    settings: Settings,
    engine: AsyncEngine,
    wakeups: Wakeups,
    worker: WorkerStatus | None = None,
) -> FastAPI:
    """Make the public application. It connects to nothing by itself, and the caller disposes of the engine.

    `worker` is the one in the same process, if there is one. While `app.state.draining` is true every answer closes its
    connection.
    """
    app = FastAPI(
        title=settings.app_name,
        version=settings.version,
        description=DESCRIPTION,
        openapi_tags=TAGS,
        redirect_slashes=False,
        strict_content_type=False,  # a body without a type is taken as JSON
        generate_unique_id_function=_operation_id,
    )
    app.state.context = Context(settings, engine, wakeups, worker)
    app.state.draining = False
    app.add_api_route("/", _to_documentation, include_in_schema=False)
    own = APIRouter()
    own.routes.extend(app.routes)  # the documentation pages
    routers = [tasks.router, conversations.router, queues.router]
    compatible = [c.make_router(""), c.make_router("/compat/c")]
    app.state.routers = [own, *routers, *compatible]
    for router in routers:
        app.include_router(router, dependencies=[Depends(refuse_unknown_parameters)])
    for router in compatible:
        app.include_router(router)  # service C ignored parameters that it did not know
    install_problems(app)
    app.add_middleware(Edge, max_body_bytes=settings.max_body_bytes)
    _document_problems(app)
    return app


async def _to_documentation() -> RedirectResponse:
    return RedirectResponse("/docs")


async def refuse_unknown_parameters(request: Request) -> None:
    """Answer 422 to a query parameter that the operation does not have: a misspelt filter must not show everything."""
    route = request.scope["route"]
    known = getattr(route, "known_parameters", None)
    if known is None:
        known = route.known_parameters = _parameters_of(route)
    unknown = [name for name in request.query_params if name not in known]
    if unknown:
        errors = [{"type": "extra_forbidden", "loc": ("query", name), "msg": ""} for name in unknown]
        raise RequestValidationError(errors)


def _parameters_of(route: Any) -> frozenset[str]:
    names: set[str] = set()
    for parameter in route.dependant.query_params:
        model = parameter.field_info.annotation
        is_model = isinstance(model, type) and issubclass(model, BaseModel)
        names |= set(model.model_fields) if is_model else {parameter.alias}
    return frozenset(names)


def _operation_id(route: Any) -> str:
    prefix = "c_" if "service C" in route.tags else ""
    copy = "_compat" if route.path.startswith("/compat/") else ""
    return f"{prefix}{route.name}{copy}"


def _document_problems(app: FastAPI) -> None:
    """Put the problem's schema into the OpenAPI document, which the routes refer to."""
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = plain()
            definition = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas = schema.setdefault("components", {}).setdefault("schemas", {})
            schemas |= definition.pop("$defs", {}) | {"Problem": definition}
        return app.openapi_schema or {}

    app.openapi = openapi  # type: ignore[method-assign]
