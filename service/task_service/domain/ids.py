"""Identifiers that sort by their creation time."""

from uuid import UUID

from uuid_utils.compat import uuid7

__all__ = ["new_id"]


def new_id() -> UUID:
    """Return a new UUIDv7 (RFC 9562), as the standard library's type.

    >>> new_id().version, new_id() < new_id()
    (7, True)
    """
    return uuid7()
