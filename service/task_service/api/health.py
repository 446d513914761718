"""Probes: what a process says of itself.

Nothing outside the process makes it not live. After its first good look at the database nothing but draining makes it
not ready: when a shared database is away for a moment, every pod would leave the Service at once.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from task_service.migrations import NEEDS, SchemaState, code_revision
from task_service.migrations.state import read_state
from task_service.store.database import is_unavailable

log = structlog.get_logger(__name__)

LOOK_SECONDS = 2.0


async def read_schema(engine: AsyncEngine) -> SchemaState | None:
    """The database's schema state; None when it was never migrated."""
    async with engine.connect() as connection:
        return await connection.run_sync(read_state)


@dataclass(slots=True)
class Health:
    """One per process. `why_not_alive` lets a worker say that its loop has stopped; None while it is well."""

    engine: AsyncEngine
    why_not_alive: Callable[[], str | None] | None = None
    started: bool = False
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def why_dead(self) -> str | None:
        """Why the process should be restarted; None when it should not."""
        return self.why_not_alive() if self.why_not_alive else None

    async def why_not_started(self) -> str | None:
        """Why the process has not started yet; None for good after the first look at a compatible schema."""
        async with self._lock:
            if self.started:
                return None
            reason = await self._look()
            if reason is None:
                self.started = True
                log.info("started")
            return reason

    async def _look(self) -> str | None:
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                state = await read_schema(self.engine)
        except Exception as error:
            if not is_unavailable(error):
                raise
            return "the database cannot be reached"
        if state is None:
            return "the database was never migrated: run task-service migrate"
        return state.why_incompatible(NEEDS, code_revision())
