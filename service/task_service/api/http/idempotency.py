"""Idempotent POST requests: the header `Idempotency-Key`.

One transaction claims the key, makes the change and stores the response. A request that fails, or
whose process dies, leaves no trace. Concurrent requests with the same key wait: in the same process
without holding a database connection, in other processes on the key's row.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Annotated, TypeVar

from fastapi import Depends, Header, Request, Response

from task_service.api.auth.access import Caller
from task_service.api.dependencies import Transactions
from task_service.api.http.edge import route_of
from task_service.domain.errors import IdempotencyConflictError
from task_service.domain.principals import Principal
from task_service.services.single_flight import SingleFlight
from task_service.services.transactions import Transaction, TransactionManager
from task_service.store.idempotency import Kept, KeyName, claim, give_up, keep

T = TypeVar("T")
IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=255,
        pattern=r"^[!-~]*$",
        description="A unique key for this request, in visible ASCII. A repeated request within "
        "24 hours returns the first successful response, with `Idempotency-Replayed: true`. "
        "A different request with the same key is answered with 422.",
    ),
]
KEPT_HEADERS = ("Content-Type", "Location", "ETag")
REPLAYED = "Idempotency-Replayed"


@dataclass(frozen=True, slots=True)
class IdempotentRequest:
    """A POST request whose change is made once per caller, route and key."""

    transactions: TransactionManager
    single_flight: SingleFlight
    caller: Principal
    request: Request
    key: str | None

    async def write(
        self,
        change: Callable[[Transaction], Awaitable[T]],
        render: Callable[[T], Response],
        *,
        body_digest: bytes | None = None,
    ) -> Response:
        """Make the change and render its response in one transaction, or replay the first response.

        `body_digest` replaces the digest of the body for a body that was read as a stream. Raises
        IdempotencyConflictError if the key was used for a different request.
        """
        if self.key is None:
            return render(await self.transactions.write(change))
        name = KeyName(_name_of(self.caller), route_of(self.request.scope), self.key)
        digest = await self._digest(body_digest)
        settings = self.transactions.settings
        fresh: Response | None = None

        async def write_once(transaction: Transaction) -> Kept | None:
            nonlocal fresh
            fresh = None
            kept = await claim(transaction.sql, name, digest, settings.idempotency_hours)
            if kept is not None:
                return kept
            fresh = render(await change(transaction))
            if fresh.status_code >= 400:
                await give_up(transaction.sql, name)
                return None
            kept = _kept(digest, fresh)
            await keep(transaction.sql, name, kept)
            return kept

        kept, _ = await self.single_flight.run(
            name,
            lambda: self.transactions.write(write_once),
            settings.db_statement_timeout_seconds,
        )
        if fresh is not None:
            return fresh
        if kept is None or kept.digest != digest:
            raise IdempotencyConflictError(
                f"The Idempotency-Key {self.key} was used for another request."
            )
        return Response(kept.body, kept.status, {**kept.headers, REPLAYED: "true"})

    async def _digest(self, body_digest: bytes | None) -> str:
        """Return the digest of path, query and body, which a repeated request must match."""
        scope = self.request.scope
        body = (
            body_digest if body_digest is not None else sha256(await self.request.body()).digest()
        )
        head = f"{scope['path']}?{scope['query_string'].decode('latin-1')}\n"
        return sha256(head.encode() + body).hexdigest()


def _name_of(caller: Principal) -> str:
    """Return the namespace of the caller's keys, which a rename does not change."""
    return f"{caller.kind}:{caller.user_id or caller.name}"


def _kept(digest: str, answer: Response) -> Kept:
    headers = {name: answer.headers[name] for name in KEPT_HEADERS if name in answer.headers}
    return Kept(digest, answer.status_code, headers, bytes(answer.body))


async def idempotent_request(
    request: Request,
    transactions: Transactions,
    caller: Caller,
    idempotency_key: IdempotencyKey = None,
) -> IdempotentRequest:
    """Return the idempotent request, as a dependency."""
    single_flight: SingleFlight = request.app.state.single_flight
    return IdempotentRequest(transactions, single_flight, caller, request, idempotency_key)


Idempotent = Annotated[IdempotentRequest, Depends(idempotent_request)]
