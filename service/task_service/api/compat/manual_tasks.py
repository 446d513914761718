"""Endpoints that services A, B and E share: tasks by UUID, manual unless they name a handler."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any
from uuid import UUID

from fastapi import Depends, Path, Response
from pydantic import BaseModel, ConfigDict

from task_service.api.answers import created
from task_service.api.auth.access import Changer, Creator
from task_service.api.dependencies import Transactions
from task_service.api.http.idempotency import Idempotent
from task_service.api.http.problems import documented
from task_service.domain.errors import NotFoundError
from task_service.schemas.responses import present
from task_service.schemas.tasks import NewTask, TaskChange
from task_service.schemas.types import parse_id
from task_service.services import tasks as task_service
from task_service.services.cached_reads import read_task
from task_service.store.tasks import TaskRow


class NewTaskForm(NewTask):
    """A task to create, with the fields of `/api/v1`. Other fields are ignored.

    It is a manual task unless it names a handler.
    """

    model_config = ConfigDict(extra="ignore")


class TaskChangeForm(TaskChange):
    """Fields to change. Omitted fields stay unchanged.

    Other fields are ignored, so that a client can send back the task that it has read.
    """

    model_config = ConfigDict(extra="ignore")


def new_task(model: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    """Describe the responses to creating a task, besides 201, for OpenAPI."""
    return present(model) | documented(400, 409, 413, 415)


async def task_id_of(task_id: Annotated[str, Path(description="The task's UUID.")]) -> UUID:
    """Parse the task id in the path."""
    return parse_id("task", task_id)


Id = Annotated[UUID, Depends(task_id_of)]


@dataclass(frozen=True, slots=True)
class ManualTasks:
    """Endpoints of one service. `show` builds a response from a task, a status and headers."""

    show: Callable[[TaskRow, int, Mapping[str, str]], Response]

    async def create_task(
        self, caller: Creator, idempotent: Idempotent, new: NewTaskForm
    ) -> Response:
        """Create a task. It is a manual task unless it names a handler."""
        path = idempotent.request.url.path.rstrip("/")
        return await idempotent.write(
            lambda t: task_service.create_task(t, new, caller),
            lambda made: created(made, self.show, f"{path}/{made.task.id}"),
        )

    async def read_task(self, transactions: Transactions, task_id: Id) -> Response:
        """Return one task."""
        task = await read_task(transactions, task_id)
        if task is None:
            raise NotFoundError("task", task_id)
        return self.show(task, 200, {})

    async def change_task(
        self, transactions: Transactions, caller: Changer, task_id: Id, change: TaskChangeForm
    ) -> Response:
        """Change the given fields. Omitted fields stay unchanged."""
        task = await transactions.write(
            lambda t: task_service.change_task(t, task_id, change, caller)
        )
        return self.show(task, 200, {})

    async def update_task(
        self, transactions: Transactions, caller: Changer, task_id: Id, change: TaskChangeForm
    ) -> Response:
        """Change the given fields. Omitted fields stay unchanged."""
        return await self.change_task(transactions, caller, task_id, change)

    async def delete_task(
        self, transactions: Transactions, caller: Changer, task_id: Id
    ) -> Response:
        """Delete a task."""
        await transactions.write(lambda t: task_service.remove_task(t, task_id, caller))
        return Response(status_code=204)
