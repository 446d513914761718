"""Rate limits: so many requests per window of time and caller, counted by all instances together in Redis.

Windows follow the clock (600/minute: from second 0 to 59), so one increment tells both what is left and until when.
While Redis is away each process counts for itself.
"""

import asyncio
import time
from collections.abc import Callable
from hashlib import sha256
from ipaddress import IPv6Address, ip_address
from typing import Any

import structlog
from fastapi import Request
from limits import RateLimitItem, parse
from limits.aio.storage import RedisStorage
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from starlette.types import Scope

from task_service.api.http.headers import RATE
from task_service.api.http.metrics import RATE_LIMITED
from task_service.domain.errors import TooManyRequestsError
from task_service.domain.principals import Principal
from task_service.settings import Settings

PREFIX = "task-service:limits"
AWAY_SECONDS = 1.0
"""For so long Redis is not asked again after it failed."""
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
log = structlog.get_logger(__name__)


class InProcess:
    """Counts of the present window; those of the one before are forgotten as a whole."""

    def __init__(self) -> None:
        self._window: dict[str, tuple[int, dict[str, int]]] = {}

    def add(self, kind: str, window: int, who: str) -> int:
        """Count one more and return how many there are.

        >>> here = InProcess()
        >>> here.add("read", 7, "ada"), here.add("read", 7, "ada"), here.add("read", 8, "ada")
        (1, 2, 1)
        """
        number, counts = self._window.get(kind, (window, {}))
        if number != window:
            counts = {}
        counts[who] = counts.get(who, 0) + 1
        self._window[kind] = (window, counts)
        return counts[who]


class Limits:
    """The limits of the four classes of routes: read, write, upload, login."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.time) -> None:
        texts = {
            kind: getattr(settings, f"rate_limit_{kind}")
            for kind in ("read", "write", "upload", "login")
        }
        self._rates = {kind: parse(text) for kind, text in texts.items() if text}
        self._settings, self._clock = settings, clock
        self._here = InProcess()
        self._redis: RedisStorage | None = None
        self._away_until = 0.0
        self._is_shared = True
        self._has_redis = bool(settings.redis_url or settings.redis_url_file or settings.redis_host)

    async def count(self, request: Request, caller: Principal | None = None) -> None:
        """Count a request for its caller, else for its address. Raises TooManyRequestsError."""
        kind = (
            "read"
            if request.method in READS
            else "upload"
            if request.scope["path"] in UPLOADS
            else "write"
        )
        rate = self._rates.get(kind)
        if rate is not None:
            await self._count(request.scope, kind, rate, _who(request, caller))

    async def count_login(self, request: Request) -> None:
        """Count an attempt to log in, for its address. Raises TooManyRequestsError."""
        rate = self._rates.get("login")
        if rate is not None:
            await self._count(request.scope, "login", rate, _who(request, None))

    async def close(self) -> None:
        """Close the connections to Redis; a later count opens them again."""
        redis, self._redis = self._redis, None
        if redis is not None:
            await _client(redis).aclose()

    async def _count(self, scope: Scope, kind: str, rate: RateLimitItem, who: str) -> None:
        seconds = rate.get_expiry()
        window, into = divmod(self._clock(), seconds)
        used = await self._shared(f"{kind}:{who}:{int(window)}", seconds)
        if used is None:
            used = self._here.add(kind, int(window), who)
        left, reset = max(0, rate.amount - used), max(1, int(seconds - into))
        if RATE in scope:
            scope[RATE][:] = _headers(kind, rate.amount, seconds, left, reset)
        if used > rate.amount:
            RATE_LIMITED.labels(kind).inc()
            raise TooManyRequestsError(reset)

    async def _shared(self, key: str, seconds: int) -> int | None:
        """Count in Redis; None when there is none, or it is away."""
        if not self._has_redis or time.monotonic() < self._away_until:
            return None
        try:
            self._redis = self._redis or self._connect()
            async with asyncio.timeout(self._settings.redis_timeout_seconds):
                used = await self._redis.incr(key, seconds)
        except (
            RedisError,
            OSError,
            TimeoutError,
            ValueError,
        ) as error:  # the last: an address that is none
            self._away_until = time.monotonic() + AWAY_SECONDS
            if self._is_shared:
                log.warning("rate_limits_not_shared", error=type(error).__name__)
            self._is_shared = False
            await self.close()
            return None
        if not self._is_shared:
            log.info("rate_limits_shared_again")
            self._is_shared = True
        return used

    def _connect(self) -> RedisStorage:
        scheme, _, rest = (self._settings.read_redis_url() or "").partition("://")
        scheme = {"unix": "redis+unix", "valkey": "redis", "valkeys": "rediss"}.get(scheme, scheme)
        wait = self._settings.redis_timeout_seconds
        # No bound of redis-py's own on reading: it loses cancellations on Python 3.11.
        options: dict[str, Any] = {
            "socket_timeout": None,
            "socket_connect_timeout": wait,
            "retry": Retry(NoBackoff(), 0),
        }
        return RedisStorage(
            f"async+{scheme}://{rest}", implementation="redispy", key_prefix=PREFIX, **options
        )


def _client(redis: RedisStorage) -> Redis:
    """The library's own client, which it does not close."""
    bridge: Any = redis.bridge
    client: Redis = bridge.get_connection()
    return client


def _who(request: Request, caller: Principal | None) -> str:
    """Whose limit it is: the user's, the bearer's, or the address's; a network of IPv6 is one address."""
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


def _headers(
    kind: str, limit: int, seconds: int, left: int, reset: int
) -> list[tuple[bytes, bytes]]:
    """Both the headers that clients know and those of the present draft."""
    return [
        (b"ratelimit-limit", b"%d" % limit),
        (b"ratelimit-remaining", b"%d" % left),
        (b"ratelimit-reset", b"%d" % reset),
        (b"ratelimit-policy", b'"%s";q=%d;w=%d' % (kind.encode(), limit, seconds)),
        (b"ratelimit", b'"%s";r=%d;t=%d' % (kind.encode(), left, reset)),
    ]
