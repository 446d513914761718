"""What the API is measured against: plain `def` endpoints as FastAPI's tutorial writes them.

The same response models, the same statements, SQLAlchemy's pool of the same size over psycopg2;
nothing else: no problem+json, no ETag, no permission, no request id, no metrics. Started by
`bench.requests` with uvicorn.
"""

import os
from typing import Any
from uuid import UUID

from fastapi import FastAPI, HTTPException
from sqlalchemy import Insert, Text, bindparam, case, create_engine, func, insert, select

from task_service.domain.ids import new_id
from task_service.domain.priorities import BY_RANK
from task_service.schemas.responses import Page, Task, TaskItem
from task_service.schemas.tasks import NewTask
from task_service.store import tasks
from task_service.store.tables import task_history
from task_service.store.tables import tasks as table
from task_service.store.task_lists.filters import TaskFilter
from task_service.store.task_lists.listing import page_statement

engine = create_engine(
    os.environ["DATABASE_URL"].replace("postgresql://", "postgresql+psycopg2://"),
    pool_size=20,
    max_overflow=10,
)
app = FastAPI()
FIRST_PAGE = page_statement(TaskFilter(), "-created_at")
NAMES = tasks.TaskRow._fields
GIVEN_COLUMNS = (
    "id", "title", "description", "status", "priority", "assigned_to", "due_date", "tags", "handler", "payload",
    "queue", "run_at", "max_attempts", "timeout_seconds", "limit_key", "created_by",
)  # fmt: skip


def insertion() -> Insert:
    """Insert a task and the first line of its history, in one statement."""
    values: dict[str, Any] = {
        name: bindparam(name, type_=table.c[name].type) for name in GIVEN_COLUMNS
    }
    values["status_at"] = case(
        (bindparam("status", type_=Text).is_not(None), func.clock_timestamp())
    )
    new = insert(table).values(values).returning(table.c.id, table.c.created_by).cte("new")
    line = select(new.c.id, bindparam("shown_status", type_=Text), new.c.created_by)
    return insert(task_history).from_select(["task_id", "new_status", "changed_by"], line)


INSERTION = insertion()


def _shown(row: Any) -> dict[str, Any]:
    shown = dict(zip(NAMES, row, strict=False))
    return shown | {"priority": BY_RANK[shown["priority"]]}


@app.get("/tasks/{task_id}")
def read_task(task_id: UUID) -> Task:
    """One task."""
    with engine.connect() as connection:
        row = connection.execute(tasks.LIVE_BY_ID, {"id": task_id}).first()
    if row is None:
        raise HTTPException(404)
    return Task.model_validate(_shown(row))


@app.get("/tasks")
def list_tasks() -> Page[TaskItem]:
    """The first page of 50."""
    with engine.connect() as connection:
        rows = connection.execute(FIRST_PAGE, {"most": 51}).all()
    return Page[TaskItem](
        items=[TaskItem.model_validate(_shown(r)) for r in rows[:50]], next_cursor="more"
    )


@app.post("/tasks", status_code=201)
def create_task(new: NewTask) -> Task:
    """Create a task for a person, with the first line of its history, and read it."""
    task_id = new_id()
    values = {name: getattr(new, name) for name in GIVEN_COLUMNS if hasattr(new, name)} | {
        "id": task_id, "status": new.status, "priority": new.priority.rank, "max_attempts": 5,
        "created_by": "anonymous", "shown_status": new.status,
    }  # fmt: skip
    with engine.begin() as connection:
        connection.execute(INSERTION, values)
        row = connection.execute(tasks.LIVE_BY_ID, {"id": task_id}).one()
    return Task.model_validate(_shown(row))
