"""Service C's paths: integer ids, its words, lists without pages. Everything is done by the canonical services.

A task reads `{id, title, description, status, created_at, updated_at, processed_at, processing_instance_id,
conversation_count}`; when it is created or read alone also `conversations` (the first 1,000). Statuses are the
canonical ones, except that `scheduled` reads `pending`, which is all that C's clients know of waiting.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Path, Response
from fastapi.responses import StreamingResponse
from sqlalchemy import text

from task_service.api.answers import answer, to_json
from task_service.api.compat.c_shapes import (
    ConversationC,
    HealthC,
    NewTaskC,
    StatusC,
    TaskC,
    TaskChangeC,
    show_conversation,
    show_task,
)
from task_service.api.context import Context, get_context
from task_service.api.fields import parse_id, parse_number
from task_service.api.models import ConversationChange, NewConversation, NewTask, TaskChange
from task_service.api.problems import documented
from task_service.api.services import conversations as conversation_service
from task_service.api.services import tasks as task_service
from task_service.domain.errors import NotFoundError
from task_service.queue.figures import list_workers
from task_service.store import conversations, tasks
from task_service.store.conversations import ConversationRow
from task_service.store.database import raw
from task_service.store.tasks import TaskRow

CHUNK = 500
SHOWN_CONVERSATIONS = 1000
Shared = Annotated[Context, Depends(get_context)]
TaskId = Annotated[str, Path(description="The task's number, or its UUID.", examples=["1"])]
ConversationId = Annotated[str, Path(description="The conversation's number, or its UUID.", examples=["1"])]


async def find_task(context: Context, key: str) -> UUID:
    """The id of the task with this number or UUID; NotFoundError."""
    return await _find(context, "task", key, tasks.find_task_id)


async def find_conversation(context: Context, key: str) -> UUID:
    """The id of the conversation with this number or UUID; NotFoundError."""
    return await _find(context, "conversation", key, conversations.find_conversation_id)


async def _find(context: Context, what: str, key: str, find: Callable[[Any, int], Awaitable[UUID | None]]) -> UUID:
    number = parse_number(key)
    if number is None:
        return parse_id(what, key)
    async with context.reading() as connection:
        found = await find(connection, number)
    if found is None:
        raise NotFoundError(what, key)
    return found


async def stream_array(chunks: AsyncIterator[list[dict[str, Any]]]) -> Response:
    """A JSON array of any length. The first chunk is read before the answer starts: its errors are proper answers."""
    first = await anext(chunks)

    async def write() -> AsyncIterator[bytes]:
        yield b"[" + to_json(first)[1:-1]
        async for chunk in chunks:
            yield b"," + to_json(chunk)[1:-1]
        yield b"]"

    return StreamingResponse(write(), media_type="application/json")


async def task_chunks(context: Context) -> AsyncIterator[list[dict[str, Any]]]:
    """All tasks by number. Every chunk is a statement of its own: no transaction waits for a slow reader."""
    number, more = 0, True
    while more:
        async with context.reading() as connection:
            rows = await tasks.read_after_number(connection, number, CHUNK)
        more = len(rows) == CHUNK
        if rows or not number:
            yield [show_task(t) for t in rows]
            number = rows[-1].number if rows else 0


async def conversation_chunks(context: Context, task_id: UUID) -> AsyncIterator[list[dict[str, Any]]]:
    """All conversations of a task by number; NotFoundError when there is no such task."""
    number, more = 0, True
    while more:
        async with context.reading() as connection:
            task_number = await tasks.read_task_number(connection, task_id)
            if task_number is None:
                raise NotFoundError("task", task_id)
            rows = await conversations.read_after_number(connection, task_id, number, CHUNK)
        more = len(rows) == CHUNK
        if rows or not number:
            yield [show_conversation(c, task_number) for c in rows]
            number = rows[-1].number if rows else 0


async def create_task(context: Shared, new: NewTaskC) -> Response:
    """Create a task with its conversations; the default handler runs it."""
    handler = context.settings.default_handler or None
    wanted = NewTask(title=new.title, description=new.description, handler=handler, conversations=new.conversations)
    task = await task_service.create_task(context, wanted)
    return answer(await _with_conversations(context, task), 201, {"Location": f"/tasks/{task.number}"})


async def list_tasks(context: Shared) -> Response:
    """All tasks, streamed, with their conversation counts."""
    return await stream_array(task_chunks(context))


async def read_task(context: Shared, task_id: TaskId) -> Response:
    """One task with its conversations."""
    key = await find_task(context, task_id)
    async with context.reading() as connection:
        task = await tasks.read_task(connection, key)
    if task is None:
        raise NotFoundError("task", task_id)
    return answer(await _with_conversations(context, task))


async def update_task(context: Shared, task_id: TaskId, wanted: TaskChangeC) -> Response:
    """Change title, description or status."""
    change = TaskChange.model_construct(wanted.model_fields_set, **wanted.model_dump(exclude_unset=True))
    return answer(show_task(await task_service.change_task(context, await find_task(context, task_id), change)))


async def delete_task(context: Shared, task_id: TaskId) -> Response:
    """Delete a task and its conversations."""
    await task_service.remove_task(context, await find_task(context, task_id))
    return Response(status_code=204)


async def create_conversation(context: Shared, task_id: TaskId, new: NewConversation) -> Response:
    """Add a conversation to a task."""
    key = await find_task(context, task_id)
    [row] = await conversation_service.add_conversations(context, key, [new])
    return answer(await _with_number(context, row), 201)


async def list_conversations(context: Shared, task_id: TaskId) -> Response:
    """All conversations of a task, streamed."""
    return await stream_array(conversation_chunks(context, await find_task(context, task_id)))


async def update_conversation(context: Shared, conversation_id: ConversationId, wanted: ConversationChange) -> Response:
    """Change a conversation's body or status."""
    key = await find_conversation(context, conversation_id)
    return answer(await _with_number(context, await conversation_service.change_conversation(context, key, wanted)))


async def read_health(context: Shared) -> Response:
    """Whether the service and its database answer; 503 when the database does not."""
    async with context.reading() as connection:
        await connection.execute(text("SELECT 1"))
    return answer({"status": "healthy", "database": "up"})


async def read_status(context: Shared) -> Response:
    """The worker in this process, if it has one, and all workers."""
    async with context.reading() as connection:
        workers = await list_workers(await raw(connection))
    settings = context.settings
    has_cache = settings.redis_url or settings.redis_url_file or settings.redis_host
    return answer(
        {
            "service": settings.app_name,
            "version": settings.version,
            "worker": _show_worker(context),
            "workers": workers,
            "cache": "configured" if has_cache else "not configured",
        }
    )


def _show_worker(context: Context) -> dict[str, Any] | None:
    worker = context.worker
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


async def _with_conversations(context: Context, task: TaskRow) -> dict[str, Any]:
    own: list[ConversationRow] = []
    if task.conversation_count:
        async with context.reading() as connection:
            own = await conversations.read_after_number(connection, task.id, 0, SHOWN_CONVERSATIONS)
    return show_task(task, own)


async def _with_number(context: Context, row: ConversationRow) -> dict[str, Any]:
    async with context.reading() as connection:
        number = await tasks.read_task_number(connection, row.task_id)
    if number is None:
        raise NotFoundError("conversation", row.id)
    return show_conversation(row, number)


WRITES = documented(400, 404, 409, 413, 415)


def make_router(prefix: str) -> APIRouter:
    """Service C's routes under a prefix, each with and without a trailing slash (a redirect may lose a POST's body)."""
    router = APIRouter(prefix=prefix, tags=["service C"])

    def add(method: str, path: str, endpoint: Callable[..., Any], model: Any, status: int = 200) -> None:
        kind = {"response_model": model} if model else {"response_class": Response}
        responses = WRITES if method in ("POST", "PUT") else documented(404)
        other = path.rstrip("/") if path.endswith("/") else f"{path}/"
        for shown, p in ((True, path), (False, other)):
            router.add_api_route(
                p, endpoint, methods=[method], status_code=status, include_in_schema=shown, responses=responses, **kind
            )

    add("POST", "/tasks/", create_task, TaskC, 201)
    add("GET", "/tasks/", list_tasks, list[TaskC])
    add("GET", "/tasks/{task_id}", read_task, TaskC)
    add("PUT", "/tasks/{task_id}", update_task, TaskC)
    add("DELETE", "/tasks/{task_id}", delete_task, None, 204)
    add("POST", "/tasks/{task_id}/conversations/", create_conversation, ConversationC, 201)
    add("GET", "/tasks/{task_id}/conversations/", list_conversations, list[ConversationC])
    add("PUT", "/conversations/{conversation_id}", update_conversation, ConversationC)
    add("GET", "/health", read_health, HealthC)
    add("GET", "/status", read_status, StatusC)
    return router
