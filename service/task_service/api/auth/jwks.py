"""Key sets that issuers publish at a URL: fetched on demand, cached and refreshed."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import orjson
import structlog
from pydantic import ValidationError

from task_service.api.auth.issuer_config import KeySet

TIMEOUT_SECONDS = 3.0
AGAIN_SECONDS = 30.0
"""Minimum interval between fetches for unknown keys: anyone can send a token with one."""
MAX_AGE_SECONDS = 600.0
"""Age after which the keys are fetched again, so that a revoked key expires."""
SIZE_MAX = 1_048_576
log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Address:
    keys: KeySet | None = None
    asked_at: float = float("-inf")
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def has(self, key_id: Any) -> bool:
        """Return whether the key is cached."""
        return self.keys is not None and any(key.get("kid") == key_id for key in self.keys.keys)


class KeySource:
    """The key sets of several URLs. A failed fetch keeps the previous keys."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._addresses: dict[str, _Address] = {}
        self._clock = clock

    def keys(self, uri: str | None) -> KeySet | None:
        """Return the keys of the last fetch."""
        known = self._addresses.get(uri) if uri else None
        return known.keys if known else None

    async def look_for(self, uri: str, key_id: Any) -> None:
        """Fetch the key set if it lacks this key or is old, with one request at a time per URL.

        A caller whose key is missing waits for a request in progress; others do not wait.
        """
        known = self._addresses.setdefault(uri, _Address())
        if not self._is_due(known, key_id) or (known.has(key_id) and known.lock.locked()):
            return
        async with known.lock:
            if self._is_due(known, key_id):
                try:
                    known.keys = await _fetch(uri) or known.keys
                finally:
                    known.asked_at = self._clock()

    def _is_due(self, known: _Address, key_id: Any) -> bool:
        age = self._clock() - known.asked_at
        return age > (MAX_AGE_SECONDS if known.has(key_id) else AGAIN_SECONDS)


async def _fetch(uri: str) -> KeySet | None:
    try:
        async with (
            asyncio.timeout(TIMEOUT_SECONDS),
            httpx.AsyncClient(
                timeout=TIMEOUT_SECONDS, follow_redirects=False, trust_env=True
            ) as client,
            client.stream("GET", uri, headers={"Accept": "application/json"}) as answer,
        ):
            answer.raise_for_status()
            content = b""
            async for part in answer.aiter_bytes():
                content += part
                if len(content) > SIZE_MAX:
                    raise ValueError("too large")
        return KeySet.model_validate(orjson.loads(content))
    except (
        httpx.HTTPError,
        httpx.InvalidURL,
        TimeoutError,
        OSError,
        ValueError,
        ValidationError,
    ) as error:
        log.warning("keys_not_fetched", uri=uri, error=type(error).__name__)
        return None
