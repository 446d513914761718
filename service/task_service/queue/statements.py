"""The statements by name, and what they run on."""

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
    """The text of `sql/NAME.sql`."""
    return files(__package__).joinpath("sql", f"{name}.sql").read_text()


def or_none(values: Sequence[str | None]) -> Sequence[str | None]:
    """An empty one for one of nulls only: UNNEST fills up with nulls, and the driver looks at every element."""
    return [] if values.count(None) == len(values) else values
