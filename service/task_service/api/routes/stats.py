"""`/api/v1/tasks/stats/summary`: numbers of tasks by status and priority."""

from datetime import datetime

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field

from task_service.api.answers import answer
from task_service.api.auth.access import MAY_READ, AuthorizedRoute
from task_service.api.dependencies import Transactions
from task_service.api.http.problems import documented
from task_service.domain.priorities import Priority
from task_service.domain.statuses import Status
from task_service.services.statistics import summarize

router = APIRouter(route_class=AuthorizedRoute, prefix="/api/v1/tasks/stats", tags=["tasks"])


class Summary(BaseModel):
    """Numbers of tasks, without deleted ones."""

    total: int
    by_status: dict[Status, int] = Field(description="All statuses, including those without tasks.")
    by_priority: dict[Priority, int]
    at: datetime


@router.get("/summary", response_model=Summary, responses=documented(), dependencies=[MAY_READ])
async def read_summary(transactions: Transactions) -> Response:
    """Return the number of tasks by status and by priority. Fast for any number of tasks."""
    summary = await summarize(transactions)
    numbers = {
        "by_status": {str(status): number for status, number in summary.by_status.items()},
        "by_priority": {str(priority): number for priority, number in summary.by_priority.items()},
    }
    return answer({"total": summary.total, **numbers, "at": transactions.clock()})
