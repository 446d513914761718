"""Errors of unreadable JSON bodies: the reason and the position, or the field where known."""

import json
import re
import sys

from fastapi.exceptions import RequestValidationError

from task_service.domain.fields import PAYLOAD_MAX_DEPTH

WORDS = re.compile(r'("(?:[^"\\]|\\.)*")(\s*:)?|[\[\]{}]|[0-9]+', re.DOTALL)
UNREADABLE = (ValueError, RecursionError)
"""Exceptions of JSON parsing, which include JSONDecodeError and UnicodeDecodeError."""


def unreadable(error: Exception, body: bytes) -> RequestValidationError:
    """Convert a parse error to a validation error.

    It names the position of invalid JSON, or the field that is too deep or has too long a number.

    >>> unreadable(RecursionError(), b'{"title": "a", "payload": ' + b"[" * 1000).errors()[0]["loc"]
    ('body', 'payload')
    """
    if isinstance(error, json.JSONDecodeError):
        return _broken(error.pos, error.msg)
    if isinstance(error, UnicodeDecodeError):
        return _broken(error.start, "it is not UTF-8")
    digits = sys.get_int_max_str_digits()
    field, is_deep = _first_beyond(body.decode(errors="replace"), digits)
    deep, long = (
        f"be nested more than {PAYLOAD_MAX_DEPTH} levels deep",
        f"have a number of more than {digits} digits",
    )
    message = f"must not {deep if is_deep else long}"
    return RequestValidationError(
        [{"type": "value_error", "loc": ("body", *field), "msg": message}]
    )


def _broken(place: int, what: str) -> RequestValidationError:
    error = {
        "type": "json_invalid",
        "loc": ("body", place),
        "msg": "JSON decode error",
        "ctx": {"error": what},
    }
    return RequestValidationError([error])


def _first_beyond(text: str, digits: int) -> tuple[tuple[str, ...], bool]:
    """Find the outermost field of the first value beyond the limits.

    The second result is True for excessive depth, False for too long a number.

    >>> _first_beyond('{"a": [1], "b": 12345}', 4), _first_beyond("[" * 200, 4)
    ((('b',), False), ((), True))
    """
    depth = 0
    name: tuple[str, ...] = ()
    for found in WORDS.finditer(text):
        word, string, colon = found[0], found[1], found[2]
        if string is not None:
            name = (string[1:-1][:100],) if colon and depth == 1 else name
        elif word in "[{":
            depth += 1
            if depth > PAYLOAD_MAX_DEPTH + 1:
                return name, True
        elif word in "]}":
            depth -= 1
        elif len(word) > digits:
            return name, False
    return (), True
