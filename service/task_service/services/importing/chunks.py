"""Streams of rows in chunks."""

from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, TypeVar

CHUNK = 1_000
Row = dict[str, Any]
T = TypeVar("T")


class Children:
    """A stream of rows, sorted by task, that is read per chunk of tasks."""

    def __init__(self, rows: AsyncIterator[Row]) -> None:
        self._rows = rows
        self._next: Row | None = None

    async def of(self, task_ids: set[str]) -> list[Row]:
        """Return the rows of these tasks, which come next in the stream."""
        found = []
        while row := self._next or await anext(self._rows, None):
            if str(row["task_id"]) not in task_ids:
                self._next = row
                break
            self._next = None
            found.append(row)
        return found


async def chunks(rows: AsyncIterator[Row]) -> AsyncIterator[list[Row]]:
    """Yield the rows in lists of at most `CHUNK`."""
    chunk: list[Row] = []
    async for row in rows:
        chunk.append(row)
        if len(chunk) == CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def slices(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """Return slices of at most `CHUNK` items."""
    return (items[start : start + CHUNK] for start in range(0, len(items), CHUNK))
