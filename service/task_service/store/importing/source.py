"""Databases of other services: which tables they have, and their rows as a stream, all of one
snapshot.
"""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import asyncpg

PREFETCH = 1_000
CONNECT_SECONDS = 10.0
UNTIL_THE_END = """
    SET LOCAL timezone = 'UTC';
    SET LOCAL datestyle = 'ISO';
    SET LOCAL statement_timeout = 0;
    SET LOCAL idle_in_transaction_session_timeout = 0
"""
"""How times are written; and however long it takes, reading goes on."""
COLUMNS = """
    SELECT table_name, column_name, udt_name
    FROM information_schema.columns
    WHERE table_schema = current_schema()
    ORDER BY table_name, ordinal_position
"""


@dataclass(frozen=True, slots=True)
class Reading:
    """How to read a table: its name, and its names of our columns. `types` has the type of each of
    its columns.
    """

    table: str
    columns: Mapping[str, str]
    types: Mapping[str, str]


@asynccontextmanager
async def open_source(url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection inside one read-only transaction that sees one snapshot; its times are in UTC.

    Raises asyncpg's errors and OSError when the database cannot be reached.
    """
    scheme, _, rest = url.partition("://")
    if scheme.split("+")[0] not in ("postgresql", "postgres") or not rest:
        raise ValueError("the address must look like postgresql://user:password@host:5432/name")
    connection = await asyncpg.connect(f"postgresql://{rest}", timeout=CONNECT_SECONDS)
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            await connection.execute(UNTIL_THE_END)
            yield connection
    finally:
        await connection.close()


async def read_columns(connection: asyncpg.Connection) -> dict[str, dict[str, str]]:
    """The tables of the current schema, each with its columns and their types."""
    found: dict[str, dict[str, str]] = {}
    for table, column, kind in await connection.fetch(COLUMNS):
        found.setdefault(table, {})[column] = kind
    return found


async def read_rows(
    connection: asyncpg.Connection, reading: Reading, order: str
) -> AsyncIterator[dict[str, Any]]:
    """The rows under our names, in the order of one of our columns, as JSON has them: times are
    text.
    """
    shown = _shown(reading)
    by = _quoted(reading.columns[order])
    rows = f"SELECT {shown} FROM {_quoted(reading.table)} AS t ORDER BY t.{by}"  # noqa: S608 - quoted names
    query = f"SELECT row_to_json(r)::text FROM ({rows}) AS r"  # noqa: S608
    async for row in connection.cursor(query, prefetch=PREFETCH):
        yield json.loads(row[0])


async def read_children(
    connection: asyncpg.Connection, reading: Reading, parents: Reading
) -> AsyncIterator[dict[str, Any]]:
    """The rows whose `task_id` is there, in the order in which `read_rows` gives the tasks by their
    id.
    """
    child, parent = reading.columns["task_id"], parents.columns["id"]
    cast = "" if reading.types[child] == parents.types[parent] else "::text"
    query = f"""
        SELECT row_to_json(r)::text FROM (
            SELECT {_shown(reading)}
            FROM {_quoted(reading.table)} AS t
            JOIN {_quoted(parents.table)} AS p ON t.{_quoted(child)}{cast} = p.{_quoted(parent)}{cast}
            ORDER BY p.{_quoted(parent)}, t.{_quoted(reading.columns["id"])}
        ) AS r
    """  # noqa: S608 - names from the catalogue, quoted
    async for row in connection.cursor(query, prefetch=PREFETCH):
        yield json.loads(row[0])


async def count_rows(connection: asyncpg.Connection, reading: Reading) -> int:
    """How many rows a table has."""
    return int(await connection.fetchval(f"SELECT count(*) FROM {_quoted(reading.table)}"))  # noqa: S608


async def highest_number(connection: asyncpg.Connection, reading: Reading, most: int) -> int | None:
    """The highest integer id that is at most so high; None when the ids are no integers."""
    column = reading.columns["id"]
    if reading.types[column] not in ("int2", "int4", "int8"):
        return None
    query = f"SELECT max({_quoted(column)}) FROM {_quoted(reading.table)} WHERE {_quoted(column)} <= $1::bigint"  # noqa: S608
    return await connection.fetchval(query, most)  # type: ignore[no-any-return]


def _shown(reading: Reading) -> str:
    return ", ".join(
        f"t.{_quoted(theirs)} AS {_quoted(ours)}" for ours, theirs in reading.columns.items()
    )


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
