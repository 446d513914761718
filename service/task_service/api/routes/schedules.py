"""`/api/v1/schedules`: cron expressions and the tasks that they create."""

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Path, Query, Response
from pydantic import BaseModel, Field

from task_service.api import answers
from task_service.api.answers import answer
from task_service.api.auth.access import MAY_READ, AuthorizedRoute, OperatorRole
from task_service.api.dependencies import Transactions
from task_service.api.http.idempotency import Idempotent
from task_service.api.http.problems import documented
from task_service.api.routes.tasks import IfMatch, IfNoneMatch
from task_service.schemas.responses import Page, PageQuery
from task_service.schemas.tasks import NewSchedule, ScheduleChange
from task_service.schemas.types import CatchUp, fragment, parse_id
from task_service.services import daily_log
from task_service.services import schedules as service
from task_service.services.etags import Guard, is_unchanged
from task_service.services.schedules import etag_of_schedule
from task_service.services.transactions import Transaction
from task_service.store import schedules as store
from task_service.store.schedules import ScheduleRow

PREFIX = "/api/v1/schedules"
router = APIRouter(route_class=AuthorizedRoute, prefix=PREFIX, tags=["schedules"])


class Schedule(BaseModel):
    """A schedule. Built-in schedules (`action` is not `task`) have no template."""

    id: UUID
    name: str
    cron: str
    time_zone: str
    action: Literal["task", "daily_log"]
    template: dict[str, Any] | None
    catch_up: CatchUp
    enabled: bool
    next_run_at: datetime | None = Field(description="Null while the schedule is disabled.")
    last_run_at: datetime | None
    last_task_id: UUID | None = Field(description="The last task that it created.")
    last_error: str | None = Field(
        description="Reason why the last run created no task; null if it did."
    )
    version: int
    created_by: str | None
    created_at: datetime
    updated_at: datetime


async def schedule_id_of(
    schedule_id: Annotated[str, Path(description="The schedule's UUID.")],
) -> UUID:
    """Parse the schedule id in the path."""
    return parse_id("schedule", schedule_id)


ScheduleId = Annotated[UUID, Depends(schedule_id_of)]


def schedule_item(row: ScheduleRow) -> dict[str, Any]:
    """Convert a row to the fields of `Schedule`."""
    return {name: getattr(row, name) for name in Schedule.model_fields} | {
        "template": fragment(row.template)
    }


def schedule_answer(row: ScheduleRow, status: int = 200) -> Response:
    """Build the response for one schedule, with its ETag."""
    headers = {"ETag": etag_of_schedule(row)}
    if status == 201:
        headers["Location"] = f"{PREFIX}/{row.id}"
    return answer(schedule_item(row), status, headers)


@router.post("", status_code=201, response_model=Schedule, responses=documented(400, 409, 413, 415))
async def create_schedule(
    caller: OperatorRole, idempotent: Idempotent, new: NewSchedule
) -> Response:
    """Create a schedule.

    If the template's payload is an object or null, the payload of each task also contains the time
    that it is scheduled for, as `scheduled_for`.
    """
    return await idempotent.write(
        lambda t: service.create_schedule(t, new, caller), lambda row: schedule_answer(row, 201)
    )


@router.get("", response_model=Page[Schedule], responses=documented(), dependencies=[MAY_READ])
async def list_schedules(
    transactions: Transactions, query: Annotated[PageQuery, Query()]
) -> Response:
    """Return one page of schedules, ordered by name."""
    async with transactions.read() as connection:
        rows, cursor = await store.list_schedules(connection, query.limit, query.cursor)
    return answers.page(map(schedule_item, rows), cursor)


@router.get(
    "/{schedule_id}",
    response_model=Schedule,
    responses={304: {"description": "Unchanged"}, **documented(404)},
    dependencies=[MAY_READ],
)
async def read_schedule(
    transactions: Transactions, schedule_id: ScheduleId, if_none_match: IfNoneMatch = None
) -> Response:
    """Return one schedule.

    To detect concurrent changes, send its ETag as `If-Match` with a change. A run keeps the ETag.
    """
    async with transactions.read() as connection:
        row = await service.read_schedule(connection, schedule_id)
    if is_unchanged(if_none_match, etag_of_schedule(row)):
        return Response(status_code=304, headers={"ETag": etag_of_schedule(row)})
    return schedule_answer(row)


@router.patch(
    "/{schedule_id}", response_model=Schedule, responses=documented(400, 404, 409, 412, 413, 415)
)
async def change_schedule(
    transactions: Transactions,
    caller: OperatorRole,
    schedule_id: ScheduleId,
    change: ScheduleChange,
    if_match: IfMatch = None,
) -> Response:
    """Change a schedule. Omitted fields stay unchanged. A template is replaced as a whole."""
    guard = Guard(if_match)
    row = await transactions.write(
        lambda t: service.change_schedule(t, schedule_id, change, caller, guard)
    )
    return schedule_answer(row)


@router.delete(
    "/{schedule_id}", status_code=204, response_class=Response, responses=documented(404, 409, 412)
)
async def delete_schedule(
    transactions: Transactions,
    caller: OperatorRole,
    schedule_id: ScheduleId,
    if_match: IfMatch = None,
) -> Response:
    """Delete a schedule. The tasks that it created remain."""
    await transactions.write(
        lambda t: service.remove_schedule(t, schedule_id, caller, Guard(if_match))
    )
    return Response(status_code=204)


@router.post("/{schedule_id}:run", response_model=Schedule, responses=documented(404))
async def run_schedule(
    transactions: Transactions, _: OperatorRole, idempotent: Idempotent, schedule_id: ScheduleId
) -> Response:
    """Run a schedule now, even if it is disabled. The time of its next run does not change."""

    async def run(transaction: Transaction) -> ScheduleRow:
        row = await service.read_schedule(transaction.sql, schedule_id)
        if row.action == "task":
            return await service.run_now(transaction, schedule_id)
        await daily_log.run(transactions, waiting=transaction.sql)  # loads in its own transactions
        return await service.record_daily_log_run(transaction, row)

    return await idempotent.write(run, schedule_answer)
