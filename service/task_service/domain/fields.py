"""Rules of a task's fields: limits, and normalisation of the input."""

import json
import re
from datetime import datetime
from typing import Any

TITLE_MAX = 200
DESCRIPTION_MAX = 2_000
BOUNDS = {"title": (1, TITLE_MAX), "description": (0, DESCRIPTION_MAX)}
TAGS_MAX = 10
TAG_MAX = 50
PAYLOAD_MAX_BYTES = 256 * 1024
PAYLOAD_MAX_DEPTH = 100
SETTING_MAX_BYTES = 64 * 1024
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.:-]{0,99}$"
"""Names of queues, handlers and unique keys: at most 100 letters, digits and ``_ . : -``."""
ATTEMPTS_MAX = 100
TIMEOUT_MAX_SECONDS = 7 * 24 * 3600
UNIQUE_MAX_SECONDS = 365 * 24 * 3600
PERSON_MAX = 200
AS_JSON = json.JSONEncoder(allow_nan=False, ensure_ascii=False)
ESCAPED_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


def clean_text(text: str) -> str:
    """Strip white space. Raises ValueError for NUL and lone surrogates, which PostgreSQL rejects.

    >>> clean_text("  Ring Ada ")
    'Ring Ada'
    >>> clean_text("a" + chr(0))
    Traceback (most recent call last):
    ValueError: must not contain a NUL character
    """
    if "\x00" in text:
        raise ValueError("must not contain a NUL character")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("must be valid Unicode (a lone surrogate is not)") from None
    return text.strip()


def clean_bounded(text: str, least: int, most: int) -> str:
    """Clean the text and check its length."""
    text = clean_text(text)
    if not least <= len(text) <= most:
        raise ValueError(
            f"must have {least} to {most} characters, not counting white space at the ends"
        )
    return text


def clean_tags(tags: list[str], *, most: int = TAGS_MAX, longest: int = TAG_MAX) -> list[str]:
    """Strip tags, drop empty ones and remove duplicates. Case is ignored; the first one is kept.

    >>> clean_tags(["Home", " home ", "garden", ""])
    ['Home', 'garden']
    >>> clean_tags(["x" * 51])
    Traceback (most recent call last):
    ValueError: a tag has at most 50 characters
    """
    kept: dict[str, str] = {}
    for tag in tags:
        text = clean_text(tag)
        if len(text) > longest:
            raise ValueError(f"a tag has at most {longest} characters")
        if text:
            kept.setdefault(text.casefold(), text)
    if len(kept) > most:
        raise ValueError(f"a task has at most {most} tags")
    return list(kept.values())


def check_length(name: str, value: Any) -> None:
    """Raise ValueError for a title, description or tags beyond the limits.

    Imported tasks may exceed them until they are changed.

    >>> check_length("title", "x" * 201)
    Traceback (most recent call last):
    ValueError: must have 1 to 200 characters, not counting white space at the ends
    """
    if name == "tags":
        clean_tags(value)
    elif name in BOUNDS and value is not None:
        clean_bounded(value, *BOUNDS[name])


def storable_json(value: Any) -> bytes:
    r"""Encode as JSON that PostgreSQL accepts. Raises ValueError for NUL, lone surrogates and NaN.

    >>> storable_json({"a": "\u2603"})
    b'{"a": "\xe2\x98\x83"}'
    >>> storable_json(["b" + chr(0)])
    Traceback (most recent call last):
    ValueError: must not contain a NUL character
    """
    try:
        text = AS_JSON.encode(value)
        encoded = text.encode()
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    except (ValueError, TypeError) as error:
        raise ValueError(f"must be JSON: {error}") from None
    if "\\u0000" in text and ESCAPED_NUL.search(text):
        raise ValueError("must not contain a NUL character")
    return encoded


def check_payload(payload: Any, *, most_bytes: int = PAYLOAD_MAX_BYTES) -> Any:
    """Return the payload if PostgreSQL accepts it as JSON of at most 256 KiB. Raises ValueError.

    >>> check_payload({"a": [1, None]})
    {'a': [1, None]}
    >>> check_payload("x" * 300_000)
    Traceback (most recent call last):
    ValueError: must be at most 262144 bytes of JSON
    """
    if len(storable_json(payload)) > most_bytes:
        raise ValueError(f"must be at most {most_bytes} bytes of JSON")
    if _depth(payload) > PAYLOAD_MAX_DEPTH:
        raise ValueError(f"must not be nested more than {PAYLOAD_MAX_DEPTH} levels deep")
    return payload


def _depth(value: Any) -> int:
    """Return the nesting depth of lists and objects.

    >>> _depth(1), _depth([]), _depth({"a": [1]})
    (0, 1, 2)
    """
    level, depth = [value], 0
    while level := [v for v in level if isinstance(v, dict | list)]:
        depth += 1
        level = [inner for v in level for inner in (v.values() if isinstance(v, dict) else v)]
    return depth


def check_due(due: datetime, now: datetime) -> datetime:
    """Return the due date if it is in the future. Both times have a time zone.

    >>> from datetime import UTC
    >>> check_due(datetime(2030, 1, 1, tzinfo=UTC), datetime(2031, 1, 1, tzinfo=UTC))
    Traceback (most recent call last):
    ValueError: must be in the future
    """
    if due <= now:
        raise ValueError("must be in the future")
    return due
