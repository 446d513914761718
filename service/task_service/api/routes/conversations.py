"""Conversations of tasks: `/api/v1/tasks/{id}/conversations` and `/api/v1/conversations/{id}`."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Path, Query, Response

from task_service.api import answers
from task_service.api.auth.access import MAY_READ, AuthorizedRoute, Changer
from task_service.api.dependencies import Transactions
from task_service.api.http.idempotency import Idempotent
from task_service.api.http.problems import documented
from task_service.api.routes.tasks import Id, require_task
from task_service.domain.errors import NotFoundError
from task_service.schemas.responses import Conversation, Page, PageQuery
from task_service.schemas.tasks import ConversationChange, NewConversation
from task_service.schemas.types import parse_id
from task_service.services import conversations as service
from task_service.store import conversations as store
from task_service.store.conversations import ConversationRow

PREFIX = "/api/v1/conversations"
router = APIRouter(route_class=AuthorizedRoute, tags=["conversations"])


async def conversation_id_of(
    conversation_id: Annotated[str, Path(description="The conversation's UUID.")],
) -> UUID:
    """Parse the conversation id in the path."""
    return parse_id("conversation", conversation_id)


ConversationId = Annotated[UUID, Depends(conversation_id_of)]


@router.post(
    "/api/v1/tasks/{task_id}/conversations",
    status_code=201,
    response_model=Conversation,
    responses=documented(400, 404, 413, 415),
)
async def create_conversation(
    caller: Changer,
    idempotent: Idempotent,
    task_id: Id,
    new: NewConversation,
) -> Response:
    """Add a conversation to a task."""

    def made(rows: list[ConversationRow]) -> Response:
        return answers.answer(
            answers.conversation(rows[0]), 201, {"Location": f"{PREFIX}/{rows[0].id}"}
        )

    return await idempotent.write(
        lambda t: service.add_conversations(t, task_id, [new], caller), made
    )


@router.get(
    "/api/v1/tasks/{task_id}/conversations",
    response_model=Page[Conversation],
    responses=documented(404),
    dependencies=[MAY_READ],
)
async def list_conversations(
    transactions: Transactions, task_id: Id, query: Annotated[PageQuery, Query()]
) -> Response:
    """Return one page of a task's conversations, oldest first."""
    async with transactions.read() as connection:
        await require_task(connection, task_id)
        rows, cursor = await store.list_conversations(
            connection, task_id, query.limit, query.cursor
        )
    return answers.page(map(answers.conversation, rows), cursor)


@router.get(
    PREFIX + "/{conversation_id}",
    response_model=Conversation,
    responses=documented(404),
    dependencies=[MAY_READ],
)
async def read_conversation(
    transactions: Transactions, conversation_id: ConversationId
) -> Response:
    """Return one conversation."""
    async with transactions.read() as connection:
        row = await store.read_conversation(connection, conversation_id)
    if row is None:
        raise NotFoundError("conversation", conversation_id)
    return answers.answer(answers.conversation(row))


@router.patch(
    PREFIX + "/{conversation_id}",
    response_model=Conversation,
    responses=documented(400, 404, 413, 415),
)
async def change_conversation(
    transactions: Transactions,
    caller: Changer,
    conversation_id: ConversationId,
    change: ConversationChange,
) -> Response:
    """Change a conversation's body or status. Omitted fields stay unchanged."""
    row = await transactions.write(
        lambda t: service.change_conversation(t, conversation_id, change, caller)
    )
    return answers.answer(answers.conversation(row))


@router.put(
    PREFIX + "/{conversation_id}",
    response_model=Conversation,
    responses=documented(400, 404, 413, 415),
)
async def update_conversation(
    transactions: Transactions,
    caller: Changer,
    conversation_id: ConversationId,
    change: ConversationChange,
) -> Response:
    """Change a conversation, as PATCH does."""
    return await change_conversation(transactions, caller, conversation_id, change)


@router.delete(
    PREFIX + "/{conversation_id}",
    status_code=204,
    response_class=Response,
    responses=documented(404),
)
async def delete_conversation(
    transactions: Transactions, caller: Changer, conversation_id: ConversationId
) -> Response:
    """Delete a conversation permanently."""
    await transactions.write(lambda t: service.remove_conversation(t, conversation_id, caller))
    return Response(status_code=204)
