"""Transactions: the object that services receive, and the manager that opens, retries and commits
them.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

import asyncpg
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from task_service.clocks import utc_now
from task_service.domain.errors import UnavailableError
from task_service.queue.wakeups import Wakeups
from task_service.settings import Settings
from task_service.store.cache.cache import NoCache, open_cache
from task_service.store.database import raw

MAX_ATTEMPTS = 5
RETRYABLE_SQLSTATES = frozenset({"40001", "40P01"})
"""Serialization failure and deadlock: the same transaction may succeed when it runs again."""
T = TypeVar("T")


class TransactionConflictError(Exception):
    """Roll the transaction back and run it again: another one committed between two of its
    statements.
    """


@dataclass(frozen=True, slots=True)
class Transaction:
    """An open transaction and what services need while it is open.

    `sql` and `driver` are one database connection: SQLAlchemy's, and asyncpg's below it.
    """

    sql: AsyncConnection
    driver: asyncpg.Connection
    wakeups: Wakeups
    cache: NoCache
    settings: Settings
    clock: Callable[[], datetime]


class TransactionManager:
    """Open the transactions of one process. `on_commit` callbacks run after each commit of `write`."""

    def __init__(
        self,
        settings: Settings,
        engine: AsyncEngine,
        wakeups: Wakeups,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self.settings, self.engine, self.wakeups, self.clock = settings, engine, wakeups, clock
        self.cache = open_cache(settings, engine)
        self.on_commit: list[Callable[[], None]] = []

    async def write(self, change: Callable[[Transaction], Awaitable[T]]) -> T:
        """Run `change` in one transaction and commit it; run it again when it lost a race.

        Raises UnavailableError when it lost every race.
        """
        for attempt in range(MAX_ATTEMPTS):
            try:
                async with self.begin() as transaction:
                    result = await change(transaction)
            except TransactionConflictError:
                await asyncio.sleep(0)
            except (DBAPIError, asyncpg.PostgresError) as error:
                if _sqlstate(error) not in RETRYABLE_SQLSTATES or attempt == MAX_ATTEMPTS - 1:
                    raise
            else:
                await self.cache.committed(transaction.sql)
                for callback in self.on_commit:
                    callback()
                return result
        raise UnavailableError("Too many concurrent changes to the same task; try again.")

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[Transaction]:
        """Open a transaction that commits at the end of the block, without retries and callbacks."""
        async with self.engine.begin() as connection:
            yield Transaction(
                connection,
                await raw(connection),
                self.wakeups,
                self.cache,
                self.settings,
                self.clock,
            )

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """Lend a connection for reads. Each statement is a transaction of its own."""
        async with self.engine.connect() as connection:
            yield await connection.execution_options(isolation_level="AUTOCOMMIT")

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[AsyncConnection]:
        """Lend a connection for reads. All statements see the same snapshot of the database."""
        async with self.engine.connect() as connection:
            yield await connection.execution_options(isolation_level="REPEATABLE READ")


def _sqlstate(error: DBAPIError | asyncpg.PostgresError) -> object:
    """Return the SQLSTATE of SQLAlchemy's error, or of the driver's, which its own statements
    raise.
    """
    return getattr(error.orig if isinstance(error, DBAPIError) else error, "sqlstate", None)
