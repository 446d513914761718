"""The handler `webhook`: one signed HTTP call, as Standard Webhooks (standardwebhooks.com) has it.

The payload is {url, method, headers, body}: `method` is POST unless given, a `body` that is text is
sent as it is and anything else as JSON. The task's id is the message's id and the Idempotency-Key:
every attempt of a task has the same.
"""

import asyncio
import base64
import binascii
import hashlib
import hmac
import re
import time
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache
from ssl import SSLContext
from typing import Any, Literal
from urllib.parse import urlsplit

import httpx
import orjson
import structlog
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from task_service.settings import Settings
from task_service.worker.builtin.ssrf_guard import ForbiddenAddressError, outgoing_transport
from task_service.worker.handlers import Context, Discard, Handler, Retry, handler

EXCERPT_BYTES = 4096
SECRET_PREFIX = "whsec_"  # noqa: S105 - no secret, but how one begins
RETRIED = frozenset({408, 425, 429})
OURS = re.compile(
    r"(?i)webhook-.*|idempotency-key|host|content-length|transfer-encoding|connection|te|upgrade"
)
HEADER_NAME, HEADER_VALUE = (
    re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}"),
    re.compile(r"[\t\x20-\x7e]{0,4000}"),
)
log = structlog.get_logger(__name__)


class Call(BaseModel):
    """The payload: what to call."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str = Field(max_length=4000)
    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"] = "POST"
    headers: dict[str, str] = Field({}, max_length=50)
    body: Any = None

    @field_validator("url")
    @classmethod
    def _check_url(cls, url: str) -> str:
        try:
            parts = urlsplit(url)
            _ = parts.port, httpx.URL(url)
        except (ValueError, httpx.InvalidURL) as error:
            raise ValueError(f"is no URL: {error}") from None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("must begin with http:// or https:// and a host")
        if parts.username or parts.password:
            raise ValueError("must hold no user or password: use the header Authorization")
        return url

    @field_validator("headers")
    @classmethod
    def _check_headers(cls, headers: dict[str, str]) -> dict[str, str]:
        for name, value in headers.items():
            if not HEADER_NAME.fullmatch(name) or not HEADER_VALUE.fullmatch(value):
                raise ValueError(f"{name!r}: {value[:50]!r} is no header")
            if OURS.fullmatch(name):
                raise ValueError(f"{name} is set by the service")
        return headers

    def content(self) -> tuple[bytes, dict[str, str]]:
        """The body's bytes, and the headers with its type.

        >>> Call(url="https://example.org", body={"a": 1}).content()
        (b'{"a":1}', {'content-type': 'application/json'})
        """
        if self.body is None:
            return b"", dict(self.headers)
        is_text = isinstance(self.body, str)
        kind = {"content-type": "text/plain; charset=utf-8" if is_text else "application/json"}
        given = {name.lower(): value for name, value in self.headers.items()}
        return self.body.encode() if is_text else orjson.dumps(self.body), kind | given


def webhook(settings: Settings) -> Handler:
    """The handler, with these settings' secret, limits and permissions."""

    @handler("webhook")
    async def run(context: Context) -> dict[str, Any]:
        try:
            call = Call.model_validate(context.payload)
        except ValidationError as error:
            raise Discard(_what_is_wrong(error)) from None
        return await _deliver(settings, call, str(context.task_id))

    return run


async def _deliver(settings: Settings, call: Call, message_id: str) -> dict[str, Any]:
    """Call and judge the answer: the result for a 2xx, else Retry or Discard."""
    body, headers = call.content()
    headers |= {
        "accept-encoding": "identity",
        "user-agent": f"{settings.app_name}/{settings.version}",
    }
    headers |= signed_headers(settings.read_webhook_secret(), message_id, int(time.time()), body)
    began, host = time.monotonic(), urlsplit(call.url).hostname
    try:
        async with asyncio.timeout(settings.webhook_timeout_seconds):
            answer, excerpt = await _call(settings, call, headers, body)
    except ForbiddenAddressError as error:
        log.warning("webhook_refused", task_id=message_id, host=host)
        raise Discard(str(error)) from None
    except TimeoutError:
        raise Retry(
            why=f"no answer from {host} within {settings.webhook_timeout_seconds:g} s"
        ) from None
    except httpx.TransportError as error:
        raise Retry(why=f"{host} cannot be reached: {type(error).__name__}: {error}") from None
    seconds = round(time.monotonic() - began, 3)
    log.info(
        "webhook_answered",
        task_id=message_id,
        host=host,
        status=answer.status_code,
        seconds=seconds,
    )
    return _judge(answer, excerpt, settings.retry_cap_seconds)


async def _call(
    settings: Settings, call: Call, headers: dict[str, str], body: bytes
) -> tuple[httpx.Response, str]:
    """One request; no redirect is followed, and no more of the answer is read than the excerpt."""
    transport = outgoing_transport(_tls(), allow_private=settings.webhook_allow_private)
    timeout = settings.webhook_timeout_seconds
    async with (
        httpx.AsyncClient(
            transport=transport, timeout=timeout, follow_redirects=False, trust_env=False
        ) as client,
        client.stream(call.method, call.url, headers=headers, content=body) as answer,
    ):
        read = b""
        async for chunk in answer.aiter_raw(EXCERPT_BYTES):
            read += chunk
            if len(read) >= EXCERPT_BYTES:
                break
        return answer, excerpt_of(read)


def _judge(answer: httpx.Response, excerpt: str, longest_seconds: float) -> dict[str, Any]:
    status = answer.status_code
    if answer.is_success:
        return {"status": status, "body": excerpt}
    if answer.is_redirect:
        raise Discard(
            f"answered {status} (to {answer.headers.get('location', '')[:200]}); redirects are not followed"
        )
    why = f"answered {status}: {excerpt[:500]}"
    if status in RETRIED or status >= 500:
        raise Retry(
            retry_after(answer.headers.get("retry-after"), datetime.now(UTC), longest_seconds), why
        )
    raise Discard(why)


def signed_headers(
    secret: str | None, message_id: str, timestamp: int, body: bytes
) -> dict[str, str]:
    """The headers that tell who calls and which message it is; without a secret there is no
    signature.

    >>> sorted(signed_headers("secret", "task", 0, b""))
    ['idempotency-key', 'webhook-id', 'webhook-signature', 'webhook-timestamp']
    """
    headers = {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "idempotency-key": message_id,
    }
    return headers | (
        {"webhook-signature": signature(secret, message_id, timestamp, body)} if secret else {}
    )


def signature(secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    """The signature of `ID.TIMESTAMP.BODY`: HMAC-SHA256 in base64, after `v1,`.

    A secret that begins with `whsec_` is base64, as Standard Webhooks has it; any other one is
    taken as it is.

    >>> secret, message_id = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "msg_p5jXN8AQM9LWM0D4loKWxJek"
    >>> signature(secret, message_id, 1614265330, b'{"test": 2432232314}')
    'v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE='
    """
    try:
        is_base64 = secret.startswith(SECRET_PREFIX)
        key = (
            base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
            if is_base64
            else secret.encode()
        )
    except binascii.Error:
        raise ValueError(
            "WEBHOOK_SECRET begins with whsec_, but what follows is not base64"
        ) from None
    digest = hmac.new(key, f"{message_id}.{timestamp}.".encode() + body, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode()}"


def retry_after(header: str | None, now: datetime, longest_seconds: float) -> float | None:
    """The seconds that a Retry-After asks for, at most `longest_seconds`; None (the policy decides)
    without a sane one.

    >>> now = datetime(2030, 1, 1, tzinfo=UTC)
    >>> [retry_after(h, now, 300) for h in ("7", "99999", "Tue, 01 Jan 2030 00:01:00 GMT", "soon", None)]
    [7.0, 300, 60.0, None, None]
    """
    if not header:
        return None
    try:
        seconds = float(header) if header.isdecimal() else (_date(header) - now).total_seconds()
    except (ValueError, OverflowError):
        return None
    return min(max(seconds, 0.0), longest_seconds)


def _date(header: str) -> datetime:
    found = parsedate_to_datetime(header)
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def excerpt_of(body: bytes) -> str:
    r"""The beginning of an answer as text that JSON and PostgreSQL can hold.

    >>> excerpt_of(b"ok\x00\xff")
    'ok\ufffd\ufffd'
    """
    return body[:EXCERPT_BYTES].decode(errors="replace").replace("\x00", "\ufffd")


def _what_is_wrong(error: ValidationError) -> str:
    problems = [
        f"{'.'.join(str(p) for p in e['loc'])}: {e['msg'].removeprefix('Value error, ')}"
        for e in error.errors()
    ]
    return f"the payload is no webhook call: {'; '.join(problems)}"[:2000]


@cache
def _tls() -> SSLContext:
    """Made once: to read the certificates takes longer than a call."""
    return httpx.create_ssl_context(trust_env=False)
