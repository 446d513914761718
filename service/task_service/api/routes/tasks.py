"""`/api/v1/tasks`: create, read, change and delete tasks."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Header, Path, Query, Response
from sqlalchemy.ext.asyncio import AsyncConnection

from task_service.api import answers
from task_service.api.answers import task_answer
from task_service.api.auth.access import MAY_READ, AuthorizedRoute, Changer, Creator
from task_service.api.dependencies import Transactions
from task_service.api.http.idempotency import Idempotent
from task_service.api.http.problems import documented
from task_service.domain.errors import NotFoundError
from task_service.domain.statuses import Status
from task_service.schemas.responses import (
    HistoryEvent,
    Page,
    PageQuery,
    Run,
    Task,
    TaskItem,
    TaskQuery,
    present,
)
from task_service.schemas.tasks import Because, NewTask, TaskChange
from task_service.schemas.types import parse_id
from task_service.services import cached_reads
from task_service.services import tasks as service
from task_service.services.etags import Guard, etag_of, is_unchanged
from task_service.store import history
from task_service.store import tasks as store
from task_service.store.task_lists import listing

PREFIX = "/api/v1/tasks"
router = APIRouter(route_class=AuthorizedRoute, prefix=PREFIX, tags=["tasks"])

TaskId = Annotated[
    str, Path(description="The task's UUID.", examples=["0195d6a2-8c4f-7a3e-9a51-3f6f2d1c0b4a"])
]
IfMatch = Annotated[
    str | None,
    Header(description="The ETag that you last read; 412 if the resource has changed since then."),
]
IfNoneMatch = Annotated[
    str | None, Header(description="The ETag that you last read; 304 if it is still current.")
]


async def task_id_of(task_id: TaskId) -> UUID:
    """Parse the task id in the path."""
    return parse_id("task", task_id)


Id = Annotated[UUID, Depends(task_id_of)]


async def require_task(connection: AsyncConnection, task_id: UUID) -> None:
    """Raise NotFoundError unless the task exists."""
    if await store.read_task_number(connection, task_id) is None:
        raise NotFoundError("task", task_id)


@router.post(
    "", status_code=201, response_model=Task, responses=present(Task) | documented(400, 413, 415)
)
async def create_task(caller: Creator, idempotent: Idempotent, new: NewTask) -> Response:
    """Create a task, optionally with conversations.

    A task with a handler is run by a worker. A task without one is a manual task. If an existing
    task holds the `unique_key`, no task is created and the response is 200 with the existing task.
    """
    return await idempotent.write(
        lambda t: service.create_task(t, new, caller),
        lambda made: answers.created(made, task_answer, f"{PREFIX}/{made.task.id}"),
    )


@router.get("", response_model=Page[TaskItem], responses=documented(), dependencies=[MAY_READ])
async def list_tasks(transactions: Transactions, query: Annotated[TaskQuery, Query()]) -> Response:
    """Return one page of tasks, without `payload` and `result`.

    For the next page, send `next_cursor` as `cursor`, and the same `sort`.
    """
    async with transactions.read() as connection:
        rows, cursor = await listing.list_tasks(
            connection, query.conditions(), query.sort, query.limit, query.cursor
        )
    return answers.page(map(answers.task_item, rows), cursor)


@router.get(
    "/{task_id}",
    response_model=Task,
    responses={304: {"description": "Unchanged"}, **documented(404)},
    dependencies=[MAY_READ],
)
async def read_task(
    transactions: Transactions, task_id: Id, if_none_match: IfNoneMatch = None
) -> Response:
    """Return one task. To detect concurrent changes, send its ETag as `If-Match` with a change."""
    task = await cached_reads.read_task(transactions, task_id)
    if task is None:
        raise NotFoundError("task", task_id)
    if is_unchanged(if_none_match, etag_of(task)):
        return Response(status_code=304, headers={"ETag": etag_of(task)})
    return task_answer(task)


CHANGE_PROBLEMS = documented(400, 404, 409, 412, 413, 415)


@router.patch("/{task_id}", response_model=Task, responses=CHANGE_PROBLEMS)
async def change_task(
    transactions: Transactions,
    caller: Changer,
    task_id: Id,
    change: TaskChange,
    if_match: IfMatch = None,
) -> Response:
    """Change a task with a JSON merge patch: omitted fields stay unchanged, null clears a field.

    While a worker holds the task, fields that control its execution cannot change (409
    `held_by_worker`). Its status can only be set to `cancelled`, which asks the worker to cancel.
    """
    guard = Guard(if_match)
    task = await transactions.write(
        lambda t: service.change_task(t, task_id, change, caller, guard)
    )
    return task_answer(task)


@router.put("/{task_id}", response_model=Task, responses=CHANGE_PROBLEMS)
async def update_task(
    transactions: Transactions,
    caller: Changer,
    task_id: Id,
    change: TaskChange,
    if_match: IfMatch = None,
) -> Response:
    """Change a task, as PATCH does, for clients that only support PUT.

    Omitted fields stay unchanged.
    """
    return await change_task(transactions, caller, task_id, change, if_match)


@router.delete(
    "/{task_id}", status_code=204, response_class=Response, responses=documented(404, 409, 412)
)
async def delete_task(
    transactions: Transactions,
    caller: Changer,
    task_id: Id,
    if_match: IfMatch = None,
    hard: Annotated[
        bool,
        Query(
            description="Delete the task, its runs and its conversations permanently. "
            "The history remains."
        ),
    ] = False,
) -> Response:
    """Delete a task: cancel it if it is open, and hide it."""
    guard = Guard(if_match)
    await transactions.write(lambda t: service.remove_task(t, task_id, caller, guard, hard=hard))
    return Response(status_code=204)


@router.post(
    "/{task_id}:cancel", response_model=Task, responses=CHANGE_PROBLEMS | {202: {"model": Task}}
)
async def cancel_task(
    caller: Changer,
    idempotent: Idempotent,
    task_id: Id,
    body: Because | None = None,
    if_match: IfMatch = None,
) -> Response:
    """Cancel a task.

    If a worker holds the task, the response is 202: the worker is asked to cancel, but the task
    still completes if its handler finishes first.
    """
    guard, reason = Guard(if_match), body.reason if body else None
    return await idempotent.write(
        lambda t: service.set_status(t, task_id, Status.CANCELLED, caller, guard, reason=reason),
        lambda task: task_answer(task, 202 if task.status is Status.PROCESSING else 200),
    )


@router.post("/{task_id}:retry", response_model=Task, responses=CHANGE_PROBLEMS)
async def retry_task(
    caller: Changer,
    idempotent: Idempotent,
    task_id: Id,
    body: Because | None = None,
    if_match: IfMatch = None,
) -> Response:
    """Make an ended or scheduled task pending again, due now and with all its attempts."""
    guard, reason = Guard(if_match), body.reason if body else None
    return await idempotent.write(
        lambda t: service.set_status(t, task_id, Status.PENDING, caller, guard, reason=reason),
        task_answer,
    )


@router.get(
    "/{task_id}/history",
    response_model=Page[HistoryEvent],
    responses=documented(404),
    dependencies=[MAY_READ],
)
async def read_history(
    transactions: Transactions, task_id: Id, query: Annotated[PageQuery, Query()]
) -> Response:
    """Return a task's history, oldest first: changes by callers and the ends of attempts."""
    async with transactions.read() as connection:
        await require_task(connection, task_id)
        rows, cursor = await history.list_history(connection, task_id, query.limit, query.cursor)
    return answers.page(map(answers.event, rows), cursor)


@router.get(
    "/{task_id}/runs", response_model=Page[Run], responses=documented(404), dependencies=[MAY_READ]
)
async def read_runs(
    transactions: Transactions, task_id: Id, query: Annotated[PageQuery, Query()]
) -> Response:
    """Return a task's finished attempts, oldest first, with worker, times, outcome and reason."""
    async with transactions.read() as connection:
        await require_task(connection, task_id)
        rows, cursor = await history.list_runs(connection, task_id, query.limit, query.cursor)
    return answers.page(map(answers.run, rows), cursor)
