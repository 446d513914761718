"""`/api/v1/tasks:batch`: many tasks in one transaction."""

import asyncio
import json
from typing import Annotated, Any, NoReturn

from fastapi import APIRouter, Depends, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field, ValidationError

from task_service.api import answers
from task_service.api.auth.access import AuthorizedRoute, Creator
from task_service.api.dependencies import Transactions
from task_service.api.http.bodies import UNREADABLE, unreadable
from task_service.api.http.idempotency import Idempotent
from task_service.api.http.problems import documented
from task_service.schemas.responses import TaskItem
from task_service.schemas.tasks import NewTask
from task_service.services import bulk
from task_service.services.bulk import BulkResult, chunks, due_date_problem
from task_service.services.transactions import Transaction, TransactionConflictError
from task_service.store.tasks import read_tasks

TASKS_MAX = 10_000
ERRORS_MAX = 1_000
router = APIRouter(route_class=AuthorizedRoute, prefix="/api/v1/tasks", tags=["tasks"])

SCHEMA = {
    "type": "object",
    "required": ["tasks"],
    "additionalProperties": False,
    "properties": {
        "tasks": {
            "type": "array",
            "minItems": 1,
            "maxItems": TASKS_MAX,
            "items": {"$ref": "#/components/schemas/NewTask"},
        }
    },
}
BODY = {"requestBody": {"required": True, "content": {"application/json": {"schema": SCHEMA}}}}


class BatchResult(BaseModel):
    """Tasks of a batch, in the order of the request."""

    items: list[TaskItem]
    created: int
    present: list[int] = Field(
        description="Positions (from 0) of the tasks whose `unique_key` an existing task holds."
    )


async def read_batch(request: Request, transactions: Transactions, _: Creator) -> list[NewTask]:
    """Parse the batch in the body, in a thread: 10,000 tasks take a good part of a second."""
    body = await request.body()
    media = request.headers.get("content-type", "application/json").split(";")[0].strip().lower()
    if media != "application/json" and not (
        media.startswith("application/") and media.endswith("+json")
    ):
        _refuse("dict_type", (), "must be JSON", body)
    tasks = await asyncio.to_thread(_parse, body)
    now = transactions.clock()
    late = [(i, message) for i, new in enumerate(tasks) if (message := due_date_problem(new, now))]
    if late:
        errors = [
            _error("value_error", ("tasks", i, "due_date"), message)
            for i, message in late[:ERRORS_MAX]
        ]
        raise RequestValidationError(errors)
    return tasks


Batch = Annotated[list[NewTask], Depends(read_batch)]


PRESENT: dict[int | str, dict[str, Any]] = {
    200: {"model": BatchResult, "description": "All tasks already existed"}
}


@router.post(
    ":batch",
    status_code=201,
    response_model=BatchResult,
    responses=PRESENT | documented(400, 413, 415),
    openapi_extra=BODY,
)
async def create_tasks(caller: Creator, idempotent: Idempotent, batch: Batch) -> Response:
    """Create up to 10,000 tasks: all of them or none.

    An error names the position of its task (from 0), as in `tasks.17.title`.
    """

    async def create(transaction: Transaction) -> Response:
        result = await bulk.create_tasks(transaction, batch, caller)
        content = await _render(transaction, result)
        return Response(content, 201 if result.inserted else 200, media_type="application/json")

    return await idempotent.write(create, lambda response: response)


async def _render(transaction: Transaction, result: BulkResult) -> bytes:
    """Render the response in chunks; between two chunks other requests are served.

    Raises TransactionConflictError if a task was deleted permanently meanwhile.
    """
    parts = []
    for ids in chunks(result.ids):
        rows = await read_tasks(transaction.sql, ids)
        if len(rows) < len(ids):
            raise TransactionConflictError
        parts.append(answers.to_json([answers.task_item(row) for row in rows])[1:-1])
    counts = answers.to_json({"created": len(result.inserted), "present": result.existing})
    return b'{"items":[' + b",".join(parts) + b"]," + counts[1:]


def _parse(body: bytes) -> list[NewTask]:
    """Read and check a batch. Raises RequestValidationError with at most 1,000 errors."""
    try:
        content = json.loads(body)
    except UNREADABLE as error:
        raise unreadable(error, body) from None
    if not isinstance(content, dict):
        _refuse("dict_type", (), "must be an object with the field `tasks`")
    others = [
        str(name)[:100].encode(errors="replace").decode() for name in content if name != "tasks"
    ]
    unknown = [_error("extra_forbidden", (name,), "") for name in others[:ERRORS_MAX]]
    tasks = content.get("tasks")
    if not isinstance(tasks, list) or not 1 <= len(tasks) <= TASKS_MAX:
        raise RequestValidationError(
            [
                *unknown,
                _error("list_type", ("tasks",), f"must be a list of 1 to {TASKS_MAX:,} tasks"),
            ]
        )
    batch, errors = [], unknown
    for position, task in enumerate(tasks):
        try:
            batch.append(NewTask.model_validate(task))
        except ValidationError as error:
            problems = error.errors(include_url=False, include_input=False, include_context=False)
            errors += [{**e, "loc": ("body", "tasks", position, *e["loc"])} for e in problems]
            if len(errors) >= ERRORS_MAX:
                break
    if errors:
        raise RequestValidationError(errors[:ERRORS_MAX])
    return batch


def _error(kind: str, where: tuple[Any, ...], message: str) -> dict[str, Any]:
    return {"type": kind, "loc": ("body", *where), "msg": message}


def _refuse(kind: str, where: tuple[Any, ...], message: str, body: bytes = b"") -> NoReturn:
    raise RequestValidationError([_error(kind, where, message)], body=body)
