"""Counts and times that the bench's processes share: a file of 64-bit numbers, mapped into each of
them.

Every handler of every product writes here, and nothing else: what it costs is the same for all.
Standard library only, as it runs in the products' own environments.
"""

import mmap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

SLOTS = 64
"""Worker processes that may write at a time, each into a count of its own."""
SIZE = 8


class Board:
    """One line of counts, then two times for each task: when its commit was known, and when a
    handler began with it.

    Tasks are numbered from 0. Times are nanoseconds of the machine's monotonic clock, 0 for what
    has not happened.
    """

    def __init__(self, path: Path, slot: int = 0) -> None:
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 0)
        self._view = memoryview(self._map).cast("q")
        self._slot = slot
        self._lock = threading.Lock()

    @classmethod
    def create(cls, path: Path, tasks: int) -> Self:
        """A board for so many tasks; what was there is gone."""
        path.unlink(missing_ok=True)
        with path.open("wb") as file:
            file.truncate((SLOTS + 2 * tasks) * SIZE)
        return cls(path)

    def commit(self, number: int) -> None:
        """Note that the producer knows this task to be committed."""
        self._view[SLOTS + 2 * number] = time.monotonic_ns()

    def start(self, number: int) -> None:
        """Note that a handler has begun with this task: what each product's handler calls."""
        self._view[SLOTS + 2 * number + 1] = time.monotonic_ns()
        with self._lock:
            self._view[self._slot] += 1

    def started(self) -> int:
        """How often a handler has begun, in all workers."""
        return sum(self._view[:SLOTS])

    def starts(self, first: int, count: int) -> Iterator[int]:
        """When a handler began with each of these tasks; a later attempt replaces an earlier one."""
        return iter(self._view[SLOTS + 2 * first + 1 : SLOTS + 2 * (first + count) : 2])

    def waits(self, first: int, count: int) -> list[float]:
        """Milliseconds from commit to start of each of these tasks.

        Less than zero where the handler began before the producer's commit was answered.
        """
        commits = self._view[SLOTS + 2 * first : SLOTS + 2 * (first + count) : 2]
        return [
            (start - commit) / 1e6
            for commit, start in zip(commits, self.starts(first, count), strict=True)
        ]

    def close(self) -> None:
        """Unmap the file."""
        self._view.release()
        self._map.close()
