"""Service E's paths: `/tasks` by page number or cursor, with filters and statistics.

Tasks have UUIDs and the same fields as in `/api/v1`.
"""

from typing import Annotated

from fastapi import APIRouter, Query, Response

from task_service.api import answers
from task_service.api.compat.common import Route, make_router
from task_service.api.compat.manual_tasks import ManualTasks, new_task
from task_service.api.compat.offset_lists import TaskPage, TaskPageQuery, page_answer
from task_service.api.dependencies import Transactions
from task_service.api.routes.stats import Summary, read_summary
from task_service.schemas.responses import Task


async def list_tasks(
    transactions: Transactions, query: Annotated[TaskPageQuery, Query()]
) -> Response:
    """Return one page of the tasks that match all filters.

    `page` and `page_size` reach the first 10,000 tasks; `cursor` reaches all.
    """
    return await page_answer(transactions, query, answers.task_item)


TASKS = ManualTasks(answers.task_answer)
ROUTES = (
    Route("POST", "/tasks", TASKS.create_task, Task, 201, responses=new_task(Task)),
    Route("GET", "/tasks", list_tasks, TaskPage),
    Route("GET", "/tasks/stats/summary", read_summary, Summary),
    Route("GET", "/tasks/{task_id}", TASKS.read_task, Task),
    Route("PUT", "/tasks/{task_id}", TASKS.update_task, Task),
    Route("PATCH", "/tasks/{task_id}", TASKS.change_task, Task),
    Route("DELETE", "/tasks/{task_id}", TASKS.delete_task, status=204),
)


def routers(*, root: bool) -> list[APIRouter]:
    """Return service E's routers, under `/compat/e` and, if `root` is set, at the root."""
    return [
        make_router("E", prefix, ROUTES)
        for prefix in (("", "/compat/e") if root else ("/compat/e",))
    ]
