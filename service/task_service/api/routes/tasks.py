"""`/api/v1/tasks`."""

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
    Header(description="An ETag that you have read; 412 when the task has changed since."),
]
IfNoneMatch = Annotated[
    str | None, Header(description="An ETag that you have; 304 when it still holds.")
]


async def task_id_of(task_id: TaskId) -> UUID:
    """The task's id in the path."""
    return parse_id("task", task_id)


Id = Annotated[UUID, Depends(task_id_of)]


async def require_task(connection: AsyncConnection, task_id: UUID) -> None:
    """Raise NotFoundError unless there is such a task."""
    if await store.read_task_number(connection, task_id) is None:
        raise NotFoundError("task", task_id)


@router.post(
    "", status_code=201, response_model=Task, responses=present(Task) | documented(400, 413, 415)
)
async def create_task(caller: Creator, idempotent: Idempotent, new: NewTask) -> Response:
    """Create a task, with conversations if you like. With a handler a worker runs it, without one a person does it.

    200: a task holds the `unique_key` already. It is answered as it is, and none was made.
    """
    return await idempotent.write(
        lambda t: service.create_task(t, new, caller),
        lambda made: answers.created(made, task_answer, f"{PREFIX}/{made.task.id}"),
    )


@router.get("", response_model=Page[TaskItem], responses=documented(), dependencies=[MAY_READ])
async def list_tasks(transactions: Transactions, query: Annotated[TaskQuery, Query()]) -> Response:
    """One page of tasks, without payload and result. For the next pass `next_cursor` as `cursor`, and the same sort."""
    async with transactions.read() as connection:
        found, cursor = await listing.list_tasks(
            connection, query.conditions(), query.sort, query.limit, query.cursor
        )
    return answers.page(map(answers.task_item, found), cursor)


@router.get(
    "/{task_id}",
    response_model=Task,
    responses={304: {"description": "Unchanged"}, **documented(404)},
    dependencies=[MAY_READ],
)
async def read_task(
    transactions: Transactions, task_id: Id, if_none_match: IfNoneMatch = None
) -> Response:
    """One task. Its ETag guards changes by `If-Match`."""
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
    wanted: TaskChange,
    if_match: IfMatch = None,
) -> Response:
    """Change some fields (a merge patch: what is left out stays, null clears). While a worker holds a task, how it runs
    cannot change (409 `held_by_worker`); its status can only become `cancelled`, which asks that worker.
    """
    guard = Guard(if_match)
    task = await transactions.write(
        lambda t: service.change_task(t, task_id, wanted, caller, guard)
    )
    return task_answer(task)


@router.put("/{task_id}", response_model=Task, responses=CHANGE_PROBLEMS)
async def update_task(
    transactions: Transactions,
    caller: Changer,
    task_id: Id,
    wanted: TaskChange,
    if_match: IfMatch = None,
) -> Response:
    """The same as PATCH, for clients that only know PUT: what is left out stays."""
    return await change_task(transactions, caller, task_id, wanted, if_match)


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
        Query(description="For good: the task, its runs and conversations; its history stays."),
    ] = False,
) -> Response:
    """Delete a task: an open one is cancelled, and it is hidden from then on."""
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
    because: Because | None = None,
    if_match: IfMatch = None,
) -> Response:
    """Cancel a task. 202 when a worker holds it: that worker was asked, and a completion that comes first wins."""
    guard, reason = Guard(if_match), because.reason if because else None
    return await idempotent.write(
        lambda t: service.set_status(t, task_id, Status.CANCELLED, caller, guard, reason=reason),
        lambda task: task_answer(task, 202 if task.status is Status.PROCESSING else 200),
    )


@router.post("/{task_id}:retry", response_model=Task, responses=CHANGE_PROBLEMS)
async def retry_task(
    caller: Changer,
    idempotent: Idempotent,
    task_id: Id,
    because: Because | None = None,
    if_match: IfMatch = None,
) -> Response:
    """Make an ended or scheduled task pending again, due now, with all its attempts."""
    guard, reason = Guard(if_match), because.reason if because else None
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
    """What happened to a task, oldest first: changes by people, and the ends of workers' attempts."""
    async with transactions.read() as connection:
        await require_task(connection, task_id)
        found, cursor = await history.list_history(connection, task_id, query.limit, query.cursor)
    return answers.page(map(answers.event, found), cursor)


@router.get(
    "/{task_id}/runs", response_model=Page[Run], responses=documented(404), dependencies=[MAY_READ]
)
async def read_runs(
    transactions: Transactions, task_id: Id, query: Annotated[PageQuery, Query()]
) -> Response:
    """The finished attempts of a task, oldest first: which worker, when, the outcome and its reason."""
    async with transactions.read() as connection:
        await require_task(connection, task_id)
        found, cursor = await history.list_runs(connection, task_id, query.limit, query.cursor)
    return answers.page(map(answers.run, found), cursor)
