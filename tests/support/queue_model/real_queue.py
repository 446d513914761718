"""The real queue: its database, the connections to it, and its tables in the form of the model."""

import asyncio
from collections.abc import Coroutine, Mapping
from typing import Any, Self, TypeVar
from uuid import UUID

import asyncpg

from task_service.services.transactions import TransactionManager
from task_service.settings import Settings
from task_service.store.database import create_engine
from tests.support.queue_model.model import Tables
from tests.support.tasks import quiet_wakeups

T = TypeVar("T")
SLOTS = 3
"""Worker slots; successive workers of a slot share its connection."""
MAX_HANDLER_TRANSACTIONS = 20
SET_LOCK_TIMEOUT = "ALTER DATABASE {} SET lock_timeout = '500ms'"
"""Makes a statement that unexpectedly waits for a lock fail instead of waiting forever."""
DELETE_ALL = "; ".join(
    f"DELETE FROM {table}"
    for table in (
        "queue",
        "runs",
        "task_history",
        "tasks",
        "workers",
        "paused_queues",
        "task_deltas",
        "task_counts",
    )
)
TASKS = """
    SELECT
        id, v.status AS visible_status, t.status, t.deleted_at IS NOT NULL AS deleted,
        t.queue, t.priority, t.max_attempts, t.handler
    FROM tasks AS t JOIN task_view AS v USING (id)
"""
QUEUE = """
    SELECT
        task_id, queue, priority, max_attempts, run_at <= clock_timestamp() AS due, state, fence,
        attempt, losses, alone, started, worker_id, deadline IS NOT NULL AS extended,
        cancel_requested_at IS NOT NULL AS cancel, hidden
    FROM queue
"""
RUNS = "SELECT task_id, fence, worker_id, attempt, outcome, reason, final, hidden FROM runs"
WORKERS = """
    SELECT id, state, drained_reason, dead_reason, released_at IS NOT NULL AS released FROM workers
"""


class RealQueue:
    """Event loop and connections on which all histories of a test module are played."""

    def __init__(self, url: str, settings: Settings) -> None:
        self._url, self._settings = url, settings
        self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        self.histories = 0

    def __enter__(self) -> Self:
        self.run(self._open())
        return self

    def __exit__(self, *_: object) -> None:
        self.run(self._close())
        self._runner.close()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine. Raises AssertionError for a duplicate row or a wait for a lock."""
        try:
            return self._runner.run(coroutine)
        except (asyncpg.IntegrityConstraintViolationError, asyncpg.LockNotAvailableError) as error:
            raise AssertionError(f"unexpected database error: {error}") from error

    def begin(self) -> None:
        """Empty the database for the next history."""
        self.histories += 1
        self.run(self.observer.execute(DELETE_ALL))

    async def _open(self) -> None:
        self.observer = await asyncpg.connect(self._url)
        await self.observer.execute(
            SET_LOCK_TIMEOUT.format(await self.observer.fetchval("SELECT current_database()"))
        )
        self.slots = [await asyncpg.connect(self._url) for _ in range(SLOTS)]
        self.operator = await asyncpg.connect(self._url)
        self.user_connection = await asyncpg.connect(self._url)
        self.pool = await asyncpg.create_pool(
            self._url, min_size=1, max_size=MAX_HANDLER_TRANSACTIONS
        )
        self.engine = create_engine(self._settings)
        self.transactions = TransactionManager(self._settings, self.engine, quiet_wakeups())

    async def _close(self) -> None:
        await self.engine.dispose()
        await self.pool.close()
        for connection in (self.observer, self.operator, self.user_connection, *self.slots):
            await connection.close()

    async def tables(self, names: Mapping[UUID, int]) -> Tables:
        """Return the rows by key, as `QueueModel.tables` does, with `names` as numbers for ids."""

        async def rows(query: str) -> list[tuple[Any, ...]]:
            return [tuple(names.get(v, v) for v in row) for row in await self.observer.fetch(query)]

        return {
            "tasks": {row[0]: row[1:] for row in await rows(TASKS)},
            "queue": {row[0]: row[1:] for row in await rows(QUEUE)},
            "runs": {row[:2]: row[2:] for row in await rows(RUNS)},
            "workers": {row[0]: row[1:] for row in await rows(WORKERS)},
        }
