"""`/api/v1/tasks:batch`: many tasks in one transaction."""

import asyncio
import json
from typing import Annotated, Any, NoReturn

from fastapi import APIRouter, Depends, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field, ValidationError
from sqlalchemy.ext.asyncio import AsyncConnection

from task_service.api import answers
from task_service.api.auth.access import AuthorizedRoute, Creator
from task_service.api.dependencies import Shared
from task_service.api.http.bodies import UNREADABLE, unreadable
from task_service.api.http.idempotency import Posted
from task_service.api.http.problems import documented
from task_service.schemas.responses import TaskItem
from task_service.schemas.tasks import NewTask
from task_service.services.bulk import Entered, chunks, enter_tasks, past_due
from task_service.services.context import MovedOnError
from task_service.store.tasks import read_tasks

MOST_TASKS = 10_000
MOST_ERRORS = 1_000
router = APIRouter(route_class=AuthorizedRoute, prefix="/api/v1/tasks", tags=["tasks"])

SCHEMA = {
    "type": "object",
    "required": ["tasks"],
    "additionalProperties": False,
    "properties": {
        "tasks": {
            "type": "array",
            "minItems": 1,
            "maxItems": MOST_TASKS,
            "items": {"$ref": "#/components/schemas/NewTask"},
        }
    },
}
BODY = {"requestBody": {"required": True, "content": {"application/json": {"schema": SCHEMA}}}}


class Created(BaseModel):
    """What a batch has made, in its order."""

    items: list[TaskItem]
    created: int
    present: list[int] = Field(
        description="Places of the tasks that were there already: they hold the `unique_key`."
    )


async def drafts_of(request: Request, context: Shared, _: Creator) -> list[NewTask]:
    """The batch in the body. In a thread: 10,000 tasks take a good part of a second to check."""
    body = await request.body()
    media = request.headers.get("content-type", "application/json").split(";")[0].strip().lower()
    if media != "application/json" and not (
        media.startswith("application/") and media.endswith("+json")
    ):
        _refuse("dict_type", (), "must be JSON", body)
    drafts = await asyncio.to_thread(_parse, body)
    now = context.clock()
    late = [(i, problem) for i, draft in enumerate(drafts) if (problem := past_due(draft, now))]
    if late:
        errors = [
            _error("value_error", ("tasks", i, "due_date"), problem)
            for i, problem in late[:MOST_ERRORS]
        ]
        raise RequestValidationError(errors)
    return drafts


Drafts = Annotated[list[NewTask], Depends(drafts_of)]


PRESENT: dict[int | str, dict[str, Any]] = {
    200: {"model": Created, "description": "All were there already"}
}


@router.post(
    ":batch",
    status_code=201,
    response_model=Created,
    responses=PRESENT | documented(400, 413, 415),
    openapi_extra=BODY,
)
async def create_tasks(context: Shared, caller: Creator, once: Posted, drafts: Drafts) -> Response:
    """Create up to 10,000 tasks: all of them, or none. An error names its task by its place, as in `tasks.17.title`."""

    async def enter(connection: AsyncConnection) -> Response:
        entered = await enter_tasks(context, connection, drafts, caller)
        content = await _show(connection, entered)
        return Response(content, 201 if entered.new else 200, media_type="application/json")

    return await once.write(enter, lambda answer: answer)


async def _show(connection: AsyncConnection, entered: Entered) -> bytes:
    """The answer, made in pieces: other requests are served in between. MovedOnError when a task is gone for good."""
    pieces = []
    for some in chunks(entered.ids):
        rows = await read_tasks(connection, some)
        if len(rows) < len(some):
            raise MovedOnError
        pieces.append(answers.to_json([answers.task_item(row) for row in rows])[1:-1])
    told = answers.to_json({"created": len(entered.new), "present": entered.present})
    return b'{"items":[' + b",".join(pieces) + b"]," + told[1:]


def _parse(body: bytes) -> list[NewTask]:
    """Read and check a batch. Raises RequestValidationError with up to a thousand errors."""
    try:
        content = json.loads(body)
    except UNREADABLE as error:
        raise unreadable(error, body) from None
    if not isinstance(content, dict):
        _refuse("dict_type", (), "must be an object with the field tasks")
    others = [
        str(name)[:100].encode(errors="replace").decode() for name in content if name != "tasks"
    ]
    unknown = [_error("extra_forbidden", (name,), "") for name in others[:MOST_ERRORS]]
    tasks = content.get("tasks")
    if not isinstance(tasks, list) or not 1 <= len(tasks) <= MOST_TASKS:
        raise RequestValidationError(
            [
                *unknown,
                _error("list_type", ("tasks",), f"must be a list of 1 to {MOST_TASKS:,} tasks"),
            ]
        )
    drafts, errors = [], unknown
    for place, task in enumerate(tasks):
        try:
            drafts.append(NewTask.model_validate(task))
        except ValidationError as error:
            found = error.errors(include_url=False, include_input=False, include_context=False)
            errors += [{**e, "loc": ("body", "tasks", place, *e["loc"])} for e in found]
            if len(errors) >= MOST_ERRORS:
                break
    if errors:
        raise RequestValidationError(errors[:MOST_ERRORS])
    return drafts


def _error(kind: str, where: tuple[Any, ...], message: str) -> dict[str, Any]:
    return {"type": kind, "loc": ("body", *where), "msg": message}


def _refuse(kind: str, where: tuple[Any, ...], message: str, body: bytes = b"") -> NoReturn:
    raise RequestValidationError([_error(kind, where, message)], body=body)
