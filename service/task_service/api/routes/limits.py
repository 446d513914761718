"""`/api/v1/limits`: maximum concurrency and start rate of a queue or a key."""

from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Literal, TypeAlias

from fastapi import APIRouter, Path, Query, Response
from pydantic import BaseModel, Field

from task_service.api import answers
from task_service.api.answers import answer
from task_service.api.auth.access import MAY_READ, AuthorizedRoute, OperatorRole
from task_service.api.dependencies import Transactions
from task_service.api.http.problems import documented
from task_service.domain.fields import NAME_PATTERN
from task_service.schemas.responses import Page, PageQuery
from task_service.schemas.tasks import NewLimit
from task_service.services import limits as service
from task_service.store import limits as store

router = APIRouter(
    route_class=AuthorizedRoute, prefix="/api/v1/limits", tags=["queues and workers"]
)

Kind: TypeAlias = Literal["queue", "key"]
OfKind = Annotated[
    Kind,
    Path(description="`queue` limits the tasks of a queue; `key` those with the same `limit_key`."),
]
LimitName = Annotated[
    str, Path(pattern=NAME_PATTERN, description="The queue's name, or the key.", examples=["mail"])
]


class Limit(BaseModel):
    """A limit that applies across all workers."""

    kind: Kind
    name: str
    concurrency: int | None = Field(description="Maximum number of tasks that run at a time.")
    rate: int | None = Field(
        description="Maximum number of tasks that start per period; also the largest burst."
    )
    period_seconds: float | None
    admitted: int = Field(
        description="Limited tasks that the limit lets workers claim, or that are running."
    )
    updated_by: str | None
    updated_at: datetime


@router.get("", response_model=Page[Limit], responses=documented(), dependencies=[MAY_READ])
async def list_limits(transactions: Transactions, query: Annotated[PageQuery, Query()]) -> Response:
    """Return one page of limits: first keys, then queues, ordered by name."""
    async with transactions.read() as connection:
        rows, cursor = await store.list_limits(connection, query.limit, query.cursor)
    return answers.page(map(asdict, rows), cursor)


@router.get(
    "/{kind}/{name}", response_model=Limit, responses=documented(404), dependencies=[MAY_READ]
)
async def read_limit(transactions: Transactions, kind: OfKind, name: LimitName) -> Response:
    """Return one limit."""
    async with transactions.read() as connection:
        return answer(asdict(await service.read_limit(connection, kind, name)))


@router.put(
    "/{kind}/{name}",
    response_model=Limit,
    responses={201: {"model": Limit}, **documented(400, 413, 415)},
)
async def put_limit(
    transactions: Transactions,
    caller: OperatorRole,
    kind: OfKind,
    name: LimitName,
    new: NewLimit,
) -> Response:
    """Create a limit (201) or replace it (200). Running tasks continue and count towards it."""
    row, made = await transactions.write(lambda t: service.put_limit(t, (kind, name), new, caller))
    headers = {"Location": f"/api/v1/limits/{kind}/{name}"} if made else {}
    return answer(asdict(row), 201 if made else 200, headers)


@router.delete(
    "/{kind}/{name}", status_code=204, response_class=Response, responses=documented(404)
)
async def delete_limit(
    transactions: Transactions, caller: OperatorRole, kind: OfKind, name: LimitName
) -> Response:
    """Delete a limit. The tasks that it blocked may run."""
    await transactions.write(lambda t: service.remove_limit(t, (kind, name), caller))
    return Response(status_code=204)
