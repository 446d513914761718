"""A connection that one loop has for itself: open between uses, with its statements prepared and
its server at hand.

A pool would ask and reset with each use, in tasks of their own: a tenth of the time in which an
idle worker answers.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from task_service.store.database import Driver


class KeptConnection:
    """Opened by its first use, and anew after a failure. For one use at a time."""

    def __init__(self, opener: Callable[[], Awaitable[asyncpg.Connection]]) -> None:
        self._open = opener
        self._connection: asyncpg.Connection | None = None
        self.on_lost: Callable[[], None] = lambda: None
        """Called when it ended between two uses, not by our doing."""

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[Driver]:
        """Lend it. One whose use failed is closed: it may be in the middle of a statement."""
        if self._connection is None or self._connection.is_closed():
            self._connection = await self._open()
            self._connection.add_termination_listener(self._ended)
        try:
            yield self._connection
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End it at once; the next use opens another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()

    def _ended(self, connection: Any) -> None:
        if connection is self._connection:
            self._connection = None
            self.on_lost()
