"""What the services' routers share: ids in paths, lists without pages, routes with and without a last slash."""

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Path, Response
from fastapi.responses import StreamingResponse

from task_service.api.answers import to_json
from task_service.api.auth.access import MAY_READ, AuthorizedRoute
from task_service.api.http.problems import documented

NumberOrId = Annotated[str, Path(description="The task's number, or its UUID.", examples=["1"])]
T = TypeVar("T")


async def stream_array(
    chunks: AsyncIterator[list[T]], show: Callable[[T], dict[str, Any]]
) -> Response:
    """A JSON array of any length. The first chunk is read before the answer starts: its errors are proper answers."""
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
    """A path of a service as it documents it, with or without a slash at its end. Reading takes the role viewer."""

    method: str
    path: str
    endpoint: Callable[..., Any]
    model: Any = None
    status: int = 200
    public: bool = False
    """Everybody may call it, or the endpoint itself says who may."""
    responses: Mapping[int | str, dict[str, Any]] = field(default_factory=dict)
    """What it may answer besides, instead of the usual problems."""
    dependencies: Sequence[Any] = ()
    extra: dict[str, Any] | None = None
    """What OpenAPI says of it besides."""


def make_router(service: str, prefix: str, routes: Iterable[Route]) -> APIRouter:
    """A service's routes under a prefix, each with and without a last slash (a redirect may lose a POST's body)."""
    router = APIRouter(route_class=AuthorizedRoute, prefix=prefix, tags=[f"service {service}"])
    for route in routes:
        kind = {"response_model": route.model} if route.model else {"response_class": Response}
        other = route.path.rstrip("/") if route.path.endswith("/") else f"{route.path}/"
        for shown, path in ((True, route.path), (False, other)):
            router.add_api_route(
                path, route.endpoint, methods=[route.method], status_code=route.status, include_in_schema=shown,
                responses=dict(route.responses) or _usual_problems(route),
                dependencies=[*route.dependencies, *([MAY_READ] if route.method == "GET" and not route.public else [])],
                openapi_extra=route.extra, **kind,
            )  # fmt: skip
    return router


def _usual_problems(route: Route) -> dict[int | str, dict[str, Any]]:
    named = (404,) if "{" in route.path else ()
    changes = () if route.method == "GET" else (409,)
    has_body = (400, 413, 415) if route.method in ("POST", "PUT", "PATCH") else ()
    return documented(*named, *changes, *has_body)
