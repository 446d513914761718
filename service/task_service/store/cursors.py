"""Where a page ended, as text that means nothing to callers: base64 of a JSON list."""

import base64
import binascii
import json
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from task_service.domain.errors import InvalidFieldError

MAX_LENGTH = 400
BIGINT_MAX = 2**63 - 1
NOT_OURS = "is not a cursor of this list in this order; leave it out to start at the beginning"


def encode_cursor(*parts: Any) -> str:
    """Make a cursor of sort keys: strings, integers, times, UUIDs, None.

    >>> decode_cursor(encode_cursor("-created_at", 7, None), str, int, None)
    ('-created_at', 7, None)
    """
    plain = [
        p.isoformat() if isinstance(p, datetime) else str(p) if isinstance(p, UUID) else p
        for p in parts
    ]
    text = json.dumps(plain)
    return base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()


def decode_cursor(cursor: str, *kinds: type | None) -> tuple[Any, ...]:
    """Read a cursor whose parts are of these kinds (None: a null).

    Raises InvalidFieldError, naming the field `cursor`, for anything that `encode_cursor` cannot
    have made.
    """
    try:
        if len(cursor) > MAX_LENGTH:
            raise ValueError("too long")
        padded = cursor + "=" * (-len(cursor) % 4)
        parts = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
        if not isinstance(parts, list) or len(parts) != len(kinds):
            raise ValueError("another shape")
        return tuple(_part(value, kind) for value, kind in zip(parts, kinds, strict=True))
    except (ValueError, TypeError, OverflowError, RecursionError, binascii.Error):
        raise InvalidFieldError("cursor", NOT_OURS) from None


def _part(value: Any, kind: type | None) -> Any:
    if kind is None:
        if value is not None:
            raise ValueError("not null")
        return None
    if kind is datetime and isinstance(value, str):
        return datetime.fromisoformat(value).astimezone(UTC)
    if kind is UUID and isinstance(value, str):
        return UUID(value)
    if (
        kind is int
        and isinstance(value, int)
        and not isinstance(value, bool)
        and abs(value) <= BIGINT_MAX
    ):
        return value
    if kind is str and isinstance(value, str) and "\x00" not in value:
        value.encode()  # a lone surrogate
        return value
    raise ValueError("another type")
