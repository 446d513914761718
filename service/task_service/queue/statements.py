"""The queue's SQL statements by name, and the type of the connections that run them."""

from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, TypeAlias

import asyncpg

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

    Connection: TypeAlias = asyncpg.Connection[Any] | PoolConnectionProxy[Any]
else:
    Connection = asyncpg.Connection


@cache
def statement(name: str) -> str:
    """Return the text of `sql/NAME.sql`."""
    return files(__package__).joinpath("sql", f"{name}.sql").read_text()


def or_none(values: Sequence[str | None]) -> Sequence[str | None]:
    """Return an empty list if all values are null.

    UNNEST pads shorter arrays with nulls, so the driver need not encode every element.
    """
    return [] if values.count(None) == len(values) else values
