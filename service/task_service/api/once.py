"""POST requests that a caller may safely send again: `Idempotency-Key`."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, TypeVar

from fastapi import Depends, Header, Request, Response
from sqlalchemy.ext.asyncio import AsyncConnection

from task_service.api.access import Caller
from task_service.api.context import Shared
from task_service.domain.principals import Principal
from task_service.services.context import Context

T = TypeVar("T")
IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=255,
        description="Your own name for this request: sent again within 24 hours it gives the first successful answer.",
    ),
]


@dataclass(frozen=True, slots=True)
class Once:
    """One POST request: its change is done once per caller, route and key."""

    context: Context
    caller: Principal
    request: Request
    key: str | None

    async def write(
        self, change: Callable[[AsyncConnection], Awaitable[T]], render: Callable[[T], Response]
    ) -> Response:
        """Do the change and render its answer in one transaction, or give the first answer again."""
        return render(await self.context.write(change))


async def once_of(request: Request, context: Shared, caller: Caller, idempotency_key: IdempotencyKey = None) -> Once:
    """The request as one that may be sent again."""
    return Once(context, caller, request, idempotency_key)


Posted = Annotated[Once, Depends(once_of)]
