"""What all requests of one process share, and how each of them gets its transaction."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol, TypeVar
from uuid import UUID

import asyncpg
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from task_service.domain.errors import UnavailableError
from task_service.queue.wakeups import Wakeups
from task_service.services.single_flight import Flights
from task_service.settings import Settings
from task_service.store.cache.cache import NoCache, open_cache

TRIES = 5
SERIALIZATION = frozenset({"40001", "40P01"})
"""SQLSTATEs after which the same transaction may well succeed: serialisation failure, deadlock."""
T = TypeVar("T")


class MovedOnError(Exception):
    """Another transaction got in between two locks; this one starts again."""


class WorkerStatus(Protocol):
    """What `/status` tells of a worker in the same process."""

    @property
    def instance_id(self) -> UUID | None:
        """Its id; None while it is not registered."""
        ...

    @property
    def running_since(self) -> datetime:
        """When its process began."""
        ...

    @property
    def current_task_ids(self) -> list[UUID]:
        """The tasks that it runs now."""
        ...

    @property
    def completed(self) -> int:
        """Tasks completed since then."""
        ...

    @property
    def failed(self) -> int:
        """Tasks failed since then."""
        ...


def utc_now() -> datetime:
    """The present time with its zone."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Context:
    """Made once per process and handed to every request."""

    settings: Settings
    engine: AsyncEngine
    wakeups: Wakeups
    worker: WorkerStatus | None = None
    clock: Callable[[], datetime] = utc_now
    cache: NoCache = field(init=False)
    flights: Flights = field(default_factory=Flights)
    on_commit: list[Callable[[], None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        object.__setattr__(self, "cache", open_cache(self.settings, self.engine))

    async def write(self, change: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """Run `change` in one transaction and commit; start again when it lost a race.

        Raises UnavailableError when it lost every time.
        """
        for attempt in range(TRIES):
            try:
                async with self.engine.begin() as connection:
                    done = await change(connection)
            except MovedOnError:
                await asyncio.sleep(0)
            except (
                DBAPIError,
                asyncpg.PostgresError,
            ) as error:  # the queue's statements raise the driver's own
                state = getattr(
                    error.orig if isinstance(error, DBAPIError) else error, "sqlstate", None
                )
                if state not in SERIALIZATION or attempt == TRIES - 1:
                    raise
            else:
                await self.cache.committed(connection)
                for listener in self.on_commit:
                    listener()
                return done
        raise UnavailableError("The task is being changed by many at once; try again.")

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """A connection for statements that change nothing: each is a transaction of its own."""
        async with self.engine.connect() as connection:
            yield await connection.execution_options(isolation_level="AUTOCOMMIT")
