"""Conversations of tasks: `/api/v1/tasks/{id}/conversations` and `/api/v1/conversations/{id}`."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Path, Query, Response

from task_service.api import answers
from task_service.api.fields import parse_id
from task_service.api.models import Conversation, ConversationChange, NewConversation, Page, PageQuery
from task_service.api.problems import documented
from task_service.api.routes.tasks import Id, Shared, require_task
from task_service.api.services import conversations as service
from task_service.domain.errors import NotFoundError
from task_service.store import conversations as store

PREFIX = "/api/v1/conversations"
router = APIRouter(tags=["conversations"])


async def conversation_id_of(conversation_id: Annotated[str, Path(description="The conversation's UUID.")]) -> UUID:
    """The conversation's id in the path."""
    return parse_id("conversation", conversation_id)


ConversationId = Annotated[UUID, Depends(conversation_id_of)]


@router.post(
    "/api/v1/tasks/{task_id}/conversations",
    status_code=201,
    response_model=Conversation,
    responses=documented(400, 404, 413, 415),
)
async def create_conversation(context: Shared, task_id: Id, new: NewConversation) -> Response:
    """Add a conversation to a task."""
    [row] = await service.add_conversations(context, task_id, [new])
    return answers.answer(answers.conversation(row), 201, {"Location": f"{PREFIX}/{row.id}"})


@router.get("/api/v1/tasks/{task_id}/conversations", response_model=Page[Conversation], responses=documented(404))
async def list_conversations(context: Shared, task_id: Id, query: Annotated[PageQuery, Query()]) -> Response:
    """One page of a task's conversations, oldest first."""
    async with context.reading() as connection:
        await require_task(connection, task_id)
        rows, cursor = await store.list_conversations(connection, task_id, query.limit, query.cursor)
    return answers.page(map(answers.conversation, rows), cursor)


@router.get(PREFIX + "/{conversation_id}", response_model=Conversation, responses=documented(404))
async def read_conversation(context: Shared, conversation_id: ConversationId) -> Response:
    """One conversation."""
    async with context.reading() as connection:
        row = await store.read_conversation(connection, conversation_id)
    if row is None:
        raise NotFoundError("conversation", conversation_id)
    return answers.answer(answers.conversation(row))


@router.patch(PREFIX + "/{conversation_id}", response_model=Conversation, responses=documented(400, 404, 413, 415))
async def change_conversation(context: Shared, conversation_id: ConversationId, wanted: ConversationChange) -> Response:
    """Change a conversation's body or status; what is left out stays."""
    return answers.answer(answers.conversation(await service.change_conversation(context, conversation_id, wanted)))


@router.put(PREFIX + "/{conversation_id}", response_model=Conversation, responses=documented(400, 404, 413, 415))
async def update_conversation(context: Shared, conversation_id: ConversationId, wanted: ConversationChange) -> Response:
    """The same as PATCH."""
    return await change_conversation(context, conversation_id, wanted)


@router.delete(PREFIX + "/{conversation_id}", status_code=204, response_class=Response, responses=documented(404))
async def delete_conversation(context: Shared, conversation_id: ConversationId) -> Response:
    """Delete a conversation for good."""
    await service.remove_conversation(context, conversation_id)
    return Response(status_code=204)
