"""Liveness, readiness and startup of a process.

Liveness depends on nothing outside the process. Once the process has seen a compatible database,
only draining makes it unready: otherwise a short outage of the shared database would remove every
pod from the Service at once.
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

CHECK_SECONDS = 2.0


async def read_schema(engine: AsyncEngine) -> SchemaState | None:
    """Return the database's schema state; None if it was never migrated."""
    async with engine.connect() as connection:
        return await connection.run_sync(read_state)


@dataclass(slots=True)
class Health:
    """The health of a process. A worker reports a stopped loop through `why_not_alive`."""

    engine: AsyncEngine
    why_not_alive: Callable[[], str | None] | None = None
    started: bool = False
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def why_dead(self) -> str | None:
        """Return the reason to restart the process; None if it is healthy."""
        return self.why_not_alive() if self.why_not_alive else None

    async def why_not_started(self) -> str | None:
        """Return the reason why the process has not started yet.

        It is None, permanently, once a compatible schema has been seen.
        """
        async with self._lock:
            if self.started:
                return None
            reason = await self._check()
            if reason is None:
                self.started = True
                log.info("started")
            return reason

    async def _check(self) -> str | None:
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                state = await read_schema(self.engine)
        except Exception as error:
            if not is_unavailable(error):
                raise
            return "the database cannot be reached"
        if state is None:
            return "the database was never migrated: run task-service migrate"
        return state.why_incompatible(NEEDS, code_revision())
