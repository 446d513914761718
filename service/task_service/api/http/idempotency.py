"""POST requests that a caller may safely send again: `Idempotency-Key`.

The key is claimed, the change made and the answer kept in one transaction: a request that fails, or whose process dies,
leaves nothing. Who comes meanwhile with the same key waits: in this process without a connection, in another one on the
key's row.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Annotated, TypeVar

from fastapi import Depends, Header, Request, Response
from sqlalchemy.ext.asyncio import AsyncConnection

from task_service.api.auth.access import Caller
from task_service.api.dependencies import Shared
from task_service.api.http.edge import route_of
from task_service.domain.errors import IdempotencyConflictError
from task_service.domain.principals import Principal
from task_service.services.context import Context
from task_service.store.idempotency import Kept, KeyName, claim, give_up, keep

T = TypeVar("T")
IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=255,
        pattern=r"^[!-~]*$",
        description="Your own name for this request, in visible ASCII: sent again within 24 hours it gives the first "
        "successful answer, with `Idempotency-Replayed: true`. Another request with the same name answers 422.",
    ),
]
KEPT_HEADERS = ("Content-Type", "Location", "ETag")
REPLAYED = "Idempotency-Replayed"


@dataclass(frozen=True, slots=True)
class Once:
    """One POST request: its change is done once per caller, route and key."""

    context: Context
    caller: Principal
    request: Request
    key: str | None

    async def write(
        self,
        change: Callable[[AsyncConnection], Awaitable[T]],
        render: Callable[[T], Response],
        *,
        body_digest: bytes | None = None,
    ) -> Response:
        """Do the change and render its answer in one transaction, or give the first answer again.

        `body_digest` stands for a body that was read as a stream. Raises IdempotencyConflictError when the key was used
        for another request.
        """
        if self.key is None:
            return render(await self.context.write(change))
        name = KeyName(_name_of(self.caller), route_of(self.request.scope), self.key)
        digest = await self._digest(body_digest)
        settings = self.context.settings
        fresh: Response | None = None

        async def answer(connection: AsyncConnection) -> Kept | None:
            nonlocal fresh
            fresh = None
            kept = await claim(connection, name, digest, settings.idempotency_hours)
            if kept is not None:
                return kept
            fresh = render(await change(connection))
            if fresh.status_code >= 400:
                await give_up(connection, name)
                return None
            kept = _kept(digest, fresh)
            await keep(connection, name, kept)
            return kept

        kept, _ = await self.context.flights.share(
            name, lambda: self.context.write(answer), settings.db_statement_timeout_seconds
        )
        if fresh is not None:
            return fresh
        if kept is None or kept.digest != digest:
            raise IdempotencyConflictError(
                f"The Idempotency-Key {self.key} was used for another request."
            )
        return Response(kept.body, kept.status, {**kept.headers, REPLAYED: "true"})

    async def _digest(self, body_digest: bytes | None) -> str:
        """What must be the same when a request is sent again."""
        scope = self.request.scope
        body = (
            body_digest if body_digest is not None else sha256(await self.request.body()).digest()
        )
        head = f"{scope['path']}?{scope['query_string'].decode('latin-1')}\n"
        return sha256(head.encode() + body).hexdigest()


def _name_of(caller: Principal) -> str:
    """A caller's keys are theirs, also when they are renamed or share a name with somebody else's issuer."""
    return f"{caller.kind}:{caller.user_id or caller.name}"


def _kept(digest: str, answer: Response) -> Kept:
    headers = {name: answer.headers[name] for name in KEPT_HEADERS if name in answer.headers}
    return Kept(digest, answer.status_code, headers, bytes(answer.body))


async def once_of(
    request: Request, context: Shared, caller: Caller, idempotency_key: IdempotencyKey = None
) -> Once:
    """The request as one that may be sent again."""
    return Once(context, caller, request, idempotency_key)


Posted = Annotated[Once, Depends(once_of)]
