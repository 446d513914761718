"""Invalidations that could not reach Redis. They wait here, written with the change that they are
about.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from task_service.store.tables import cache_outbox

READ = "SELECT id, key, stamp FROM cache_outbox ORDER BY id LIMIT $1"
PRUNE = "DELETE FROM cache_outbox WHERE created_at < now() - make_interval(secs => $1)"
DELETE = "DELETE FROM cache_outbox WHERE id = ANY($1::bigint[])"


@dataclass(frozen=True, slots=True)
class Note:
    """What is to be forgotten: a task's key with the stamp of its change, or a family's name with
    0.
    """

    key: str
    stamp: int = 0


class Queries(Protocol):
    """An asyncpg connection."""

    async def fetch(self, query: str, /, *args: Any) -> list[Any]:
        """Rows."""
        ...

    async def execute(self, query: str, /, *args: Any) -> str:
        """No rows."""
        ...


async def add(connection: AsyncConnection, notes: Iterable[Note]) -> None:
    """Let notes wait, in the caller's transaction."""
    await connection.execute(
        insert(cache_outbox), [{"key": note.key, "stamp": note.stamp} for note in notes]
    )


async def read(connection: Queries, most: int) -> list[tuple[int, Note]]:
    """The oldest notes that wait, with their ids."""
    return [
        (row["id"], Note(row["key"], row["stamp"])) for row in await connection.fetch(READ, most)
    ]


async def remove(connection: Queries, ids: Sequence[int]) -> None:
    """Take delivered notes out."""
    await connection.execute(DELETE, list(ids))


async def prune(connection: Queries, seconds: float) -> None:
    """Take out notes older than so many seconds, which Redis has been away for."""
    await connection.execute(PRUNE, seconds)
