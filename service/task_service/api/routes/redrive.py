"""`/api/v1/tasks:redrive`: run dead letters again."""

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field

from task_service.api.answers import answer
from task_service.api.auth.access import AuthorizedRoute, OperatorRole
from task_service.api.http.idempotency import Idempotent
from task_service.api.http.problems import documented
from task_service.schemas.tasks import Redrive
from task_service.services import redrive as service
from task_service.store.redrive import DeadLetters

router = APIRouter(route_class=AuthorizedRoute, prefix="/api/v1/tasks", tags=["tasks"])


class RedriveResult(BaseModel):
    """Result of a redrive."""

    redriven: int = Field(description="Tasks that are pending again.")
    more: bool = Field(description="Whether there may be more, because `limit` was reached.")


@router.post(":redrive", response_model=RedriveResult, responses=documented(400, 413, 415))
async def redrive_tasks(
    caller: OperatorRole,
    idempotent: Idempotent,
    selection: Redrive | None = None,
) -> Response:
    """Make failed worker tasks pending again, oldest first.

    They are due now, and all their attempts are available again.
    """
    selection = selection or Redrive()
    where = DeadLetters(
        selection.handler, selection.queue, selection.failed_after, selection.failed_before
    )
    return await idempotent.write(
        lambda t: service.redrive(t, where, selection.limit, caller, reason=selection.reason),
        lambda number: answer({"redriven": number, "more": number == selection.limit}),
    )
