"""What the services A, B and E have in common: single tasks by UUID, for people unless they name a handler."""

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
    """A task to create, in the canonical fields; for a person unless it names a handler. Others are ignored."""

    model_config = ConfigDict(extra="ignore")


class TaskChangeForm(TaskChange):
    """Fields to change; those left out stay. What a client has read it may send back: other fields are ignored."""

    model_config = ConfigDict(extra="ignore")


def new_task(model: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    """OpenAPI's description of what creating a task may answer besides 201."""
    return present(model) | documented(400, 409, 413, 415)


async def task_id_of(task_id: Annotated[str, Path(description="The task's UUID.")]) -> UUID:
    """The task's id in the path."""
    return parse_id("task", task_id)


Id = Annotated[UUID, Depends(task_id_of)]


@dataclass(frozen=True, slots=True)
class PeoplesTasks:
    """One service's calls; `show` makes its answer of a task, a status and headers."""

    show: Callable[[TaskRow, int, Mapping[str, str]], Response]

    async def create_task(
        self, caller: Creator, idempotent: Idempotent, new: NewTaskForm
    ) -> Response:
        """Create a task, for a person unless it names a handler."""
        path = idempotent.request.url.path.rstrip("/")
        return await idempotent.write(
            lambda t: task_service.create_task(t, new, caller),
            lambda made: created(made, self.show, f"{path}/{made.task.id}"),
        )

    async def read_task(self, transactions: Transactions, task_id: Id) -> Response:
        """One task."""
        task = await read_task(transactions, task_id)
        if task is None:
            raise NotFoundError("task", task_id)
        return self.show(task, 200, {})

    async def change_task(
        self, transactions: Transactions, caller: Changer, task_id: Id, wanted: TaskChangeForm
    ) -> Response:
        """Change the given fields; those left out stay."""
        task = await transactions.write(
            lambda t: task_service.change_task(t, task_id, wanted, caller)
        )
        return self.show(task, 200, {})

    async def update_task(
        self, transactions: Transactions, caller: Changer, task_id: Id, wanted: TaskChangeForm
    ) -> Response:
        """Change the given fields; those left out stay."""
        return await self.change_task(transactions, caller, task_id, wanted)

    async def delete_task(
        self, transactions: Transactions, caller: Changer, task_id: Id
    ) -> Response:
        """Delete a task."""
        await transactions.write(lambda t: task_service.remove_task(t, task_id, caller))
        return Response(status_code=204)
