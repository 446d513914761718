"""Trust between the operator and the services: signing keys for them, tokens for the operator."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol

from task_operator.kube.kinds import Key, Manifest
from task_operator.kube.objects import parse_time

RENEW_AFTER = 0.8
"""Share of its lifetime after which a token is replaced."""


def audience(key: Key) -> str:
    """Return the audience of tokens for one TaskService: no tenant can replay a token to another.

    >>> audience(("team", "orders"))
    'task-service/team/orders'
    """
    return f"task-service/{key[0]}/{key[1]}"


@dataclass(frozen=True)
class SigningKeys:
    """The cluster as an issuer of tokens, and its public keys."""

    issuer: str
    jwks: Manifest

    def trusted_issuers(self, key: Key, subject: str) -> list[Manifest]:
        """Return the trusted issuers that the chart mounts into the pods of one TaskService."""
        return [
            {
                "issuer": self.issuer,
                "audience": audience(key),
                "subject": subject,
                "role": "operator",
                "jwks": {
                    "keys": sorted(
                        self.jwks.get("keys") or [], key=lambda item: str(item.get("kid"))
                    )
                },
            }
        ]


class TokenIssuer(Protocol):
    """The TokenRequest API; `Cluster` implements it."""

    async def request_token(self, namespace: str, account: str, audience: str) -> tuple[str, str]:
        """Return a token and its expiration time (RFC 3339)."""


class Tokens:
    """Tokens of the operator's ServiceAccount, one per TaskService.

    Each is reused until four fifths of its lifetime have passed.
    """

    def __init__(
        self,
        issuer: TokenIssuer,
        namespace: str,
        account: str,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._issuer = issuer
        self._namespace = namespace
        self._account = account
        self._clock = clock
        self._tokens: dict[Key, tuple[str, datetime]] = {}
        self._locks: dict[Key, asyncio.Lock] = {}

    async def token(self, key: Key) -> str:
        """Return a token that the TaskService's pods accept; raise ApiError."""
        async with self._locks.setdefault(key, asyncio.Lock()):
            known = self._tokens.get(key)
            if known and self._clock() < known[1]:
                return known[0]
            requested_at = self._clock()
            token, expires_at = await self._issuer.request_token(
                self._namespace, self._account, audience(key)
            )
            lifetime: timedelta = parse_time(expires_at) - requested_at
            self._tokens[key] = (token, requested_at + lifetime * RENEW_AFTER)
            return token

    def forget(self, key: Key) -> None:
        """Drop the token of a TaskService that was deleted or that rejected the token."""
        self._tokens.pop(key, None)
