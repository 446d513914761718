"""Rate limits: requests per fixed window and caller, counted in Redis for all instances together.

Windows are aligned to the clock (600/minute: from second 0 to second 59), so the reset time is
known without a call, and one increment returns the count. While Redis is unavailable, each process
counts on its own. See docs/decisions/0013-rate-limits-without-a-library.md.
"""

import asyncio
import re
import time
from collections.abc import Callable
from hashlib import sha256
from ipaddress import IPv6Address, ip_address
from typing import NamedTuple

import structlog
from fastapi import Request
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from starlette.types import Scope

from task_service.api.http.headers import RATE
from task_service.api.http.metrics import RATE_LIMITED
from task_service.domain.errors import TooManyRequestsError
from task_service.domain.principals import Principal
from task_service.settings import RATE_PATTERN, Settings
from task_service.store.cache.redis import script_text

PREFIX = "task-service:limits"
RETRY_REDIS_SECONDS = 1.0
"""Pause after a failed call to Redis, during which the process counts on its own."""
SECONDS = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400}
READS = frozenset({"GET", "HEAD", "OPTIONS"})
UPLOADS = frozenset(
    {
        "/api/v1/tasks:import",
        "/upload-csv",
        "/upload-csv/",
        "/compat/d/upload-csv",
        "/compat/d/upload-csv/",
    }
)
FAILURES = (RedisError, OSError, TimeoutError, ValueError)  # ValueError: an invalid address
log = structlog.get_logger(__name__)


class Rate(NamedTuple):
    """Allowed number of requests per window of this many seconds."""

    amount: int
    seconds: int

    @classmethod
    def parse(cls, text: str) -> "Rate":
        """Parse a limit that the settings have validated.

        >>> Rate.parse("600/minute"), Rate.parse("5 / 10 seconds")
        (Rate(amount=600, seconds=60), Rate(amount=5, seconds=10))
        """
        match = re.fullmatch(RATE_PATTERN, text)
        if match is None:
            raise ValueError(f"invalid rate limit {text!r}: use one such as 600/minute")
        return cls(int(match["amount"]), int(match["multiple"] or 1) * SECONDS[match["unit"]])


class LocalCounter:
    """Counts of the current window in this process. A new window discards the previous counts."""

    def __init__(self) -> None:
        self._windows: dict[str, tuple[int, dict[str, int]]] = {}

    def add(self, kind: str, window: int, caller: str) -> int:
        """Count one request and return the caller's total in this window.

        >>> counter = LocalCounter()
        >>> [counter.add("read", window, "ada") for window in (7, 7, 8)]
        [1, 2, 1]
        """
        current, counts = self._windows.get(kind, (window, {}))
        if current != window:
            counts = {}
        counts[caller] = counts.get(caller, 0) + 1
        self._windows[kind] = (window, counts)
        return counts[caller]


class SharedCounter:
    """Counts of all instances, in Redis. A failure disables it for RETRY_REDIS_SECONDS."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._redis: Redis | None = None
        self._retry_at = 0.0
        self._is_available = True
        self._is_configured = bool(
            settings.redis_url or settings.redis_url_file or settings.redis_host
        )

    async def add(self, key: str, seconds: int) -> int | None:
        """Count one request in one round trip; None if Redis is not configured or unavailable."""
        if not self._is_configured or time.monotonic() < self._retry_at:
            return None
        try:
            self._redis = self._redis or self._connect()
            async with asyncio.timeout(self._settings.redis_timeout_seconds):
                script = self._redis.register_script(script_text("count_request"))
                count = int(await script([f"{PREFIX}:{key}"], [seconds]))
        except FAILURES as error:
            await self._report_failure(error)
            return None
        if not self._is_available:
            log.info("rate_limits_shared_again")
            self._is_available = True
        return count

    async def close(self) -> None:
        """Close the connections to Redis. A later request opens new ones."""
        redis, self._redis = self._redis, None
        if redis is not None:
            await redis.aclose()

    async def _report_failure(self, error: Exception) -> None:
        self._retry_at = time.monotonic() + RETRY_REDIS_SECONDS
        if self._is_available:
            log.warning("rate_limits_not_shared", error=type(error).__name__)
        self._is_available = False
        await self.close()

    def _connect(self) -> Redis:
        scheme, separator, rest = (self._settings.read_redis_url() or "").partition("://")
        scheme = {"valkey": "redis", "valkeys": "rediss"}.get(scheme, scheme)
        return Redis.from_url(
            f"{scheme}{separator}{rest}",
            # `add` bounds each call. The client's own timeout loses cancellations on Python 3.11.
            socket_timeout=None,
            socket_connect_timeout=self._settings.redis_timeout_seconds,
            retry=Retry(NoBackoff(), 0),
        )


class RateLimiter:
    """Rate limits of the four kinds of requests: read, write, upload, login."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.time) -> None:
        texts = {
            kind: getattr(settings, f"rate_limit_{kind}")
            for kind in ("read", "write", "upload", "login")
        }
        self._rates = {kind: Rate.parse(text) for kind, text in texts.items() if text}
        self._clock = clock
        self._local, self._shared = LocalCounter(), SharedCounter(settings)

    async def count(self, request: Request, caller: Principal | None = None) -> None:
        """Count a request for its caller, or for its address. Raises TooManyRequestsError."""
        kind = (
            "read"
            if request.method in READS
            else "upload"
            if request.scope["path"] in UPLOADS
            else "write"
        )
        await self._count(request.scope, kind, _caller_of(request, caller))

    async def count_login(self, request: Request) -> None:
        """Count an attempt to log in for its address. Raises TooManyRequestsError."""
        await self._count(request.scope, "login", _caller_of(request, None))

    async def close(self) -> None:
        """Close the connections to Redis. A later request opens new ones."""
        await self._shared.close()

    async def _count(self, scope: Scope, kind: str, caller: str) -> None:
        rate = self._rates.get(kind)
        if rate is None:
            return
        window, elapsed = divmod(self._clock(), rate.seconds)
        used = await self._shared.add(f"{kind}:{caller}:{int(window)}", rate.seconds)
        if used is None:
            used = self._local.add(kind, int(window), caller)
        reset = max(1, int(rate.seconds - elapsed))
        if RATE in scope:
            scope[RATE][:] = _headers(kind, rate, max(0, rate.amount - used), reset)
        if used > rate.amount:
            RATE_LIMITED.labels(kind).inc()
            raise TooManyRequestsError(reset)


def _caller_of(request: Request, caller: Principal | None) -> str:
    """Return the key of the user, the bearer or the address. An IPv6 /64 network is one address."""
    if caller is not None and caller.user_id is not None:
        return f"user:{caller.user_id}"
    if caller is not None and caller.kind == "issuer":
        return f"bearer:{sha256(caller.name.encode()).hexdigest()[:32]}"
    host = request.client.host if request.client else "unknown"
    try:
        address = ip_address(host)
    except ValueError:
        return f"address:{host[:100]}"
    if isinstance(address, IPv6Address):
        return f"address:{address.ipv4_mapped or int(address) >> 64}"
    return f"address:{address}"


def _headers(kind: str, rate: Rate, left: int, reset: int) -> list[tuple[bytes, bytes]]:
    """Return the headers that most clients read, and those of the current IETF draft."""
    return [
        (b"ratelimit-limit", b"%d" % rate.amount),
        (b"ratelimit-remaining", b"%d" % left),
        (b"ratelimit-reset", b"%d" % reset),
        (b"ratelimit-policy", b'"%s";q=%d;w=%d' % (kind.encode(), rate.amount, rate.seconds)),
        (b"ratelimit", b'"%s";r=%d;t=%d' % (kind.encode(), left, reset)),
    ]
