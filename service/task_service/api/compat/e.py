"""Service E's paths: `/tasks` by pages or by cursors, with filters and statistics; UUIDs and all canonical fields."""

from typing import Annotated

from fastapi import APIRouter, Query, Response

from task_service.api import answers
from task_service.api.compat.common import Route, make_router
from task_service.api.compat.manual_tasks import PeoplesTasks, new_task
from task_service.api.compat.offset_lists import TaskPage, TaskPageQuery, page_answer
from task_service.api.dependencies import Transactions
from task_service.api.routes.stats import Summary, read_summary
from task_service.schemas.responses import Task


async def list_tasks(
    transactions: Transactions, query: Annotated[TaskPageQuery, Query()]
) -> Response:
    """Tasks that fulfil all filters: by `page` and `page_size` (the first 10,000), or by `cursor` without an end."""
    return await page_answer(transactions, query, answers.task_item)


TASKS = PeoplesTasks(answers.task_answer)
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
    """Under `/compat/e`, and at the root when `/tasks` there is E's."""
    return [
        make_router("E", prefix, ROUTES)
        for prefix in (("", "/compat/e") if root else ("/compat/e",))
    ]
