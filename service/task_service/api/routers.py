"""The routes of the public application: the product's own and the compatibility routes."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.routing import BaseRoute

from task_service.api import compat
from task_service.api.routes import app_settings as application_settings
from task_service.api.routes import (
    audit,
    auth,
    batch,
    conversations,
    csv,
    daily_log,
    events,
    limits,
    queues,
    redrive,
    schedules,
    stats,
    tasks,
    users,
)

OWN = (
    stats, tasks, batch, redrive, csv, events, conversations, queues, limits, schedules, daily_log,
    application_settings, auth, users, audit,
)  # fmt: skip
"""In matching order: `/tasks/stats/summary` precedes `/tasks/{id}`."""


@dataclass(frozen=True, slots=True)
class PublicRoutes:
    """The routers as declared, for documentation, and the routes as an application serves them."""

    routers: tuple[APIRouter, ...]
    served: tuple[BaseRoute, ...]


@lru_cache
def public_routes(root: compat.Root) -> PublicRoutes:
    """Build all routes, with those of service `root` at `/tasks`.

    They are independent of an application. FastAPI needs half a second for their models, most of it
    at the first request, so they are built once per process and completely.
    """
    own = [module.router for module in OWN]
    compatible = compat.routers(root)
    everything = APIRouter(
        redirect_slashes=False,
        generate_unique_id_function=_operation_id,
        strict_content_type=False,  # a body without Content-Type is read as JSON
    )
    for router in own:
        everything.include_router(router, dependencies=[Depends(refuse_unknown_parameters)])
    for router in compatible:
        everything.include_router(router)  # the old services ignored unknown parameters
    for route in everything.routes:
        route.matches({"type": "http", "method": "GET", "path": "/-", "root_path": ""})
    return PublicRoutes((*own, *compatible), tuple(everything.routes))


async def refuse_unknown_parameters(request: Request) -> None:
    """Answer 422 to an unknown query parameter: a misspelt filter must not return everything."""
    route = request.scope["route"]
    known = getattr(route, "known_parameters", None)
    if known is None:
        known = route.known_parameters = _parameters_of(route)
    unknown = [name for name in request.query_params if name not in known]
    if unknown:
        errors = [
            {"type": "extra_forbidden", "loc": ("query", name), "msg": ""} for name in unknown
        ]
        raise RequestValidationError(errors)


def _parameters_of(route: Any) -> frozenset[str]:
    names: set[str] = set()
    for parameter in route.dependant.query_params:
        model = parameter.field_info.annotation
        is_model = isinstance(model, type) and issubclass(model, BaseModel)
        names |= (
            {f.alias or n for n, f in model.model_fields.items()} if is_model else {parameter.alias}
        )
    return frozenset(names)


def _operation_id(route: Any) -> str:
    service = next(
        (tag.removeprefix("service ").lower() for tag in route.tags if tag.startswith("service ")),
        None,
    )
    prefix = f"{service}_" if service else ""
    copy = "_compat" if route.path.startswith("/compat/") else ""
    return f"{prefix}{route.name}{copy}"
