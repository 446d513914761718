"""Shared parts of the routers: ids in paths, streamed lists, and optional final slashes."""

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Path, Response
from fastapi.responses import StreamingResponse

from task_service.api.answers import to_json
from task_service.api.auth.access import MAY_READ, AuthorizedRoute
from task_service.api.http.problems import documented

NumberOrId = Annotated[str, Path(description="The task's number or UUID.", examples=["1"])]
T = TypeVar("T")


async def stream_array(
    chunks: AsyncIterator[list[T]], show: Callable[[T], dict[str, Any]]
) -> Response:
    """Stream a JSON array of any length.

    Reads the first chunk before the response starts, so that its errors get a proper status.
    """
    first = await anext(chunks)

    def items(rows: list[T]) -> bytes:
        return to_json([show(row) for row in rows])[1:-1]

    async def write() -> AsyncIterator[bytes]:
        yield b"[" + items(first)
        async for rows in chunks:
            if rows:
                yield b"," + items(rows)
        yield b"]"

    return StreamingResponse(write(), media_type="application/json")


@dataclass(frozen=True, slots=True)
class Route:
    """A path as the service documented it. GET requires the role viewer unless `public` is set."""

    method: str
    path: str
    endpoint: Callable[..., Any]
    model: Any = None
    status: int = 200
    public: bool = False
    """Callers need no role, or the endpoint itself checks the permission."""
    responses: Mapping[int | str, dict[str, Any]] = field(default_factory=dict)
    """Further responses for OpenAPI, instead of the usual problems."""
    dependencies: Sequence[Any] = ()
    extra: dict[str, Any] | None = None
    """Further OpenAPI fields of the operation."""


def make_router(service: str, prefix: str, routes: Iterable[Route]) -> APIRouter:
    """Build a router that serves each route under a prefix, with and without a final slash.

    It does not redirect to the other form, because a redirect may lose the body of a POST.
    """
    router = APIRouter(route_class=AuthorizedRoute, prefix=prefix, tags=[f"service {service}"])
    for route in routes:
        kind = {"response_model": route.model} if route.model else {"response_class": Response}
        may_read = [MAY_READ] if route.method == "GET" and not route.public else []
        other = route.path.rstrip("/") if route.path.endswith("/") else f"{route.path}/"
        for path in (route.path, other):
            router.add_api_route(
                path,
                route.endpoint,
                methods=[route.method],
                status_code=route.status,
                include_in_schema=path == route.path,
                responses=dict(route.responses) or _usual_problems(route),
                dependencies=[*route.dependencies, *may_read],
                openapi_extra=route.extra,
                **kind,
            )
    return router


def _usual_problems(route: Route) -> dict[int | str, dict[str, Any]]:
    named = (404,) if "{" in route.path else ()
    changes = () if route.method == "GET" else (409,)
    has_body = (400, 413, 415) if route.method in ("POST", "PUT", "PATCH") else ()
    return documented(*named, *changes, *has_body)
