"""Whom the services trust: the cluster's signing keys out to them, and the operator's own tokens to show to them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from task_operator.kube.cluster import Cluster
from task_operator.kube.kinds import Key, Manifest
from task_operator.kube.objects import parse_time

RENEW_AT = 0.8


def audience(key: Key) -> str:
    """Audience of tokens for one TaskService, so that no tenant can replay a token to another.

    >>> audience(("team", "orders"))
    'task-service/team/orders'
    """
    return f"task-service/{key[0]}/{key[1]}"


@dataclass(frozen=True)
class SigningKeys:
    """The cluster as an issuer of tokens."""

    issuer: str
    jwks: Manifest

    def trusted_issuers(self, key: Key, subject: str) -> list[Manifest]:
        """What the chart mounts into the pods of one TaskService."""
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


class Tokens:
    """Tokens of the operator's account, one per TaskService, kept until four fifths of their time are over."""

    def __init__(
        self,
        cluster: Cluster,
        namespace: str,
        account: str,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._cluster = cluster
        self._namespace = namespace
        self._account = account
        self._clock = clock
        self._known: dict[Key, tuple[str, datetime]] = {}
        self._locks: dict[Key, asyncio.Lock] = {}

    async def token(self, key: Key) -> str:
        """A token that the TaskService's pods accept; raises ApiError."""
        async with self._locks.setdefault(key, asyncio.Lock()):
            known = self._known.get(key)
            if known and self._clock() < known[1]:
                return known[0]
            asked = self._clock()
            token, ends = await self._cluster.request_token(
                self._namespace, self._account, audience(key)
            )
            lifetime: timedelta = parse_time(ends) - asked
            self._known[key] = (token, asked + lifetime * RENEW_AT)
            return token

    def forget(self, key: Key) -> None:
        """Drop a token: its TaskService is gone, or refused it."""
        self._known.pop(key, None)
