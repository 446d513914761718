"""Service C's paths: integer ids and lists without paging. The logic is that of `/api/v1`.

A task is `{id, title, description, status, created_at, updated_at, processed_at,
processing_instance_id, conversation_count}`. The response to creating or reading a single task also
has `conversations` (the first 1,000). Statuses are those of `/api/v1`, except that `scheduled` is
shown as `pending`: C's clients know no other status for waiting tasks.
"""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Response
from sqlalchemy.ext.asyncio import AsyncConnection

from task_service.api.answers import answer
from task_service.api.auth.access import Changer, Creator
from task_service.api.compat.c_schemas import (
    SHOWN_AS_PENDING,
    ConversationC,
    ConversationChangeC,
    HealthC,
    NewConversationC,
    NewTaskC,
    StatusC,
    TaskC,
    TaskChangeC,
    show_conversation,
    show_task,
)
from task_service.api.compat.common import NumberOrId, Route, make_router, stream_array
from task_service.api.dependencies import LocalWorker, Transactions, WorkerStatus
from task_service.api.http.idempotency import Idempotent
from task_service.domain.errors import NotFoundError
from task_service.queue.workers import list_workers
from task_service.schemas.tasks import NewConversation, NewTask, TaskChange
from task_service.services import conversations as conversation_service
from task_service.services import tasks as task_service
from task_service.services.legacy.numeric_ids import find_conversation, find_task, read_number
from task_service.services.legacy.unpaged_lists import all_conversations, all_tasks
from task_service.services.transactions import Transaction
from task_service.store import conversations, tasks
from task_service.store.conversations import ConversationRow
from task_service.store.database import ping, raw
from task_service.store.tasks import TaskRow

SHOWN_CONVERSATIONS = 1000
ConversationId = Annotated[
    str, Path(description="The conversation's number or UUID.", examples=["1"])
]


async def create_task(
    transactions: Transactions, caller: Creator, idempotent: Idempotent, new: NewTaskC
) -> Response:
    """Create a task with its conversations. The default handler runs it."""
    handler = transactions.settings.default_handler or None
    path = idempotent.request.url.path.rstrip("/")
    new_task = NewTask(
        title=new.title,
        description=new.description,
        handler=handler,
        conversations=list[NewConversation](new.conversations),
    )

    async def create(transaction: Transaction) -> tuple[TaskRow, list[ConversationRow]]:
        task, _ = await task_service.create_task(transaction, new_task, caller)
        return task, await _conversations_of(transaction.sql, task)

    def respond(created: tuple[TaskRow, list[ConversationRow]]) -> Response:
        task, conversations_of_task = created
        location = {"Location": f"{path}/{task.number}"}
        return answer(show_task(task, conversations_of_task), 201, location)

    return await idempotent.write(create, respond)


async def list_tasks(transactions: Transactions) -> Response:
    """Return all tasks with their conversation counts, as a stream."""
    return await stream_array(all_tasks(transactions), show_task)


async def read_task(transactions: Transactions, task_id: NumberOrId) -> Response:
    """Return one task with its conversations."""
    key = await find_task(transactions, task_id)
    async with transactions.read() as connection:
        task = await tasks.read_task(connection, key)
        if task is None:
            raise NotFoundError("task", task_id)
        own = await _conversations_of(connection, task)
    return answer(show_task(task, own))


async def update_task(
    transactions: Transactions, caller: Changer, task_id: NumberOrId, fields: TaskChangeC
) -> Response:
    """Change the title, description or status of a task."""
    key = await find_task(transactions, task_id)
    change = TaskChange.model_construct(
        fields.model_fields_set, **fields.model_dump(exclude_unset=True)
    )
    task = await transactions.write(
        lambda t: task_service.change_task(
            t, key, change, caller, shown_as_pending=SHOWN_AS_PENDING
        )
    )
    return answer(show_task(task))


async def delete_task(transactions: Transactions, caller: Changer, task_id: NumberOrId) -> Response:
    """Delete a task and its conversations."""
    key = await find_task(transactions, task_id)
    await transactions.write(lambda t: task_service.remove_task(t, key, caller))
    return Response(status_code=204)


async def create_conversation(
    transactions: Transactions,
    caller: Changer,
    idempotent: Idempotent,
    task_id: NumberOrId,
    new: NewConversationC,
) -> Response:
    """Add a conversation to a task."""
    key = await find_task(transactions, task_id)

    async def add(transaction: Transaction) -> dict[str, Any]:
        [row] = await conversation_service.add_conversations(transaction, key, [new], caller)
        return show_conversation(row, await read_number(transaction.sql, row.task_id))

    return await idempotent.write(add, lambda shown: answer(shown, 201))


async def list_conversations(transactions: Transactions, task_id: NumberOrId) -> Response:
    """Return all conversations of a task, as a stream."""
    key = await find_task(transactions, task_id)
    async with transactions.read() as connection:
        number = await read_number(connection, key)
    return await stream_array(
        all_conversations(transactions, key), lambda row: show_conversation(row, number)
    )


async def update_conversation(
    transactions: Transactions,
    caller: Changer,
    conversation_id: ConversationId,
    fields: ConversationChangeC,
) -> Response:
    """Change a conversation's body or status."""
    key = await find_conversation(transactions, conversation_id)

    async def change(transaction: Transaction) -> dict[str, Any]:
        row = await conversation_service.change_conversation(transaction, key, fields, caller)
        return show_conversation(row, await read_number(transaction.sql, row.task_id))

    return answer(await transactions.write(change))


async def read_health(transactions: Transactions) -> Response:
    """Check that the service and its database respond; 503 if the database does not."""
    async with transactions.read() as connection:
        await ping(connection)
    return answer({"status": "healthy", "database": "up"})


async def read_status(transactions: Transactions, worker: LocalWorker) -> Response:
    """Return the worker of this process, if it has one, and all workers."""
    async with transactions.read() as connection:
        workers = await list_workers(await raw(connection))
    settings = transactions.settings
    has_cache = settings.redis_url or settings.redis_url_file or settings.redis_host
    return answer(
        {
            "service": settings.app_name,
            "version": settings.version,
            "worker": _show_worker(worker),
            "workers": workers,
            "cache": "configured" if has_cache else "not configured",
        }
    )


def _show_worker(worker: WorkerStatus | None) -> dict[str, Any] | None:
    if worker is None:
        return None
    running = list(worker.current_task_ids)
    return {
        "instance_id": worker.instance_id,
        "running_since": worker.running_since,
        "current_task": running[0] if running else None,
        "current_tasks": running,
        "completed": worker.completed,
        "failed": worker.failed,
    }


async def _conversations_of(connection: AsyncConnection, task: TaskRow) -> list[ConversationRow]:
    if not task.conversation_count:
        return []
    return await conversations.read_after_number(connection, task.id, 0, SHOWN_CONVERSATIONS)


ROUTES = (
    Route("POST", "/tasks/", create_task, TaskC, 201),
    Route("GET", "/tasks/", list_tasks, list[TaskC]),
    Route("GET", "/tasks/{task_id}", read_task, TaskC),
    Route("PUT", "/tasks/{task_id}", update_task, TaskC),
    Route("DELETE", "/tasks/{task_id}", delete_task, status=204),
    Route("POST", "/tasks/{task_id}/conversations/", create_conversation, ConversationC, 201),
    Route("GET", "/tasks/{task_id}/conversations/", list_conversations, list[ConversationC]),
    Route("PUT", "/conversations/{conversation_id}", update_conversation, ConversationC),
    Route("GET", "/health", read_health, HealthC, public=True),
    Route("GET", "/status", read_status, StatusC),
)


def routers(*, root: bool) -> list[APIRouter]:
    """Return service C's routers, under `/compat/c` and at the root.

    The router at the root has no `/tasks` unless `root` is set, because another service owns them.
    """
    at_root = [r for r in ROUTES if root or not r.path.startswith("/tasks")]
    return [make_router("C", "", at_root), make_router("C", "/compat/c", ROUTES)]
