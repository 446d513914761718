"""What the services' routers share: ids in paths, lists without pages, routes with and without a last slash."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Path, Response
from fastapi.responses import StreamingResponse

from task_service.api.access import MAY_READ
from task_service.api.answers import to_json
from task_service.api.problems import documented
from task_service.domain.errors import NotFoundError
from task_service.services.context import Context
from task_service.services.fields import parse_id, parse_number
from task_service.store import tasks
from task_service.store.tasks import TaskRow

CHUNK = 500
NumberOrId = Annotated[str, Path(description="The task's number, or its UUID.", examples=["1"])]
Show = Callable[[TaskRow], dict[str, Any]]


async def find_task(context: Context, key: str) -> UUID:
    """The id of the task with this number or UUID; NotFoundError."""
    return await find_id(context, "task", key, tasks.find_task_id)


async def find_id(context: Context, what: str, key: str, find: Callable[[Any, int], Awaitable[UUID | None]]) -> UUID:
    """The id of the thing with this number or UUID; NotFoundError."""
    number = parse_number(key)
    if number is None:
        return parse_id(what, key)
    async with context.reading() as connection:
        found = await find(connection, number)
    if found is None:
        raise NotFoundError(what, key)
    return found


async def stream_array(chunks: AsyncIterator[list[dict[str, Any]]]) -> Response:
    """A JSON array of any length. The first chunk is read before the answer starts: its errors are proper answers."""
    first = await anext(chunks)

    async def write() -> AsyncIterator[bytes]:
        yield b"[" + to_json(first)[1:-1]
        async for chunk in chunks:
            yield b"," + to_json(chunk)[1:-1]
        yield b"]"

    return StreamingResponse(write(), media_type="application/json")


async def task_chunks(context: Context, show: Show) -> AsyncIterator[list[dict[str, Any]]]:
    """All tasks by number. Every chunk is a statement of its own: no transaction waits for a slow reader."""
    number, more = 0, True
    while more:
        async with context.reading() as connection:
            rows = await tasks.read_after_number(connection, number, CHUNK)
        more = len(rows) == CHUNK
        if rows or not number:
            yield [show(t) for t in rows]
            number = rows[-1].number if rows else 0


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
    router = APIRouter(prefix=prefix, tags=[f"service {service}"])
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
    return documented(400, 404, 409, 413, 415) if route.method in ("POST", "PUT", "PATCH") else documented(404, 409)
