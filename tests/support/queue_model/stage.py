"""The real queue: its database, the connections of those who use it, and its tables in the model's words."""

import asyncio
from collections.abc import Coroutine, Mapping
from typing import Any, Self, TypeVar
from uuid import UUID

import asyncpg

from task_service.services.context import Context
from task_service.settings import Settings
from task_service.store.database import create_engine
from tests.support.queue_model.model import Tables
from tests.support.tasks import quiet_wakeups

T = TypeVar("T")
SLOTS = 3
"""Places for worker processes; those of one place share its connection, one after the other."""
MOST_HOLDS = 20
PATIENCE = "ALTER DATABASE {} SET lock_timeout = '500ms'"
"""A statement that waits for a lock where none should fails, instead of waiting for ever."""
EMPTY = "; ".join(
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
        id, v.status AS shown, t.status, t.deleted_at IS NOT NULL AS deleted, t.queue, t.priority, t.max_attempts,
        t.handler
    FROM tasks AS t JOIN task_view AS v USING (id)
"""
QUEUE = """
    SELECT
        task_id, queue, priority, max_attempts, run_at <= clock_timestamp() AS due, state, fence, attempt, losses,
        alone, started, worker_id, deadline IS NOT NULL AS extended, cancel_requested_at IS NOT NULL AS cancel, hidden
    FROM queue
"""
RUNS = "SELECT task_id, fence, worker_id, attempt, outcome, reason, final, hidden FROM runs"
WORKERS = "SELECT id, state, drained_reason, dead_reason, released_at IS NOT NULL AS released FROM workers"


class Stage:
    """One event loop and the connections on which all histories of a test are played."""

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
        """Run a coroutine to its end. Raises AssertionError when a row is there twice, or somebody waits for a lock."""
        try:
            return self._runner.run(coroutine)
        except (asyncpg.IntegrityConstraintViolationError, asyncpg.LockNotAvailableError) as error:
            raise AssertionError(f"the database refuses: {error}") from error

    def begin(self) -> None:
        """Empty the database for another history."""
        self.histories += 1
        self.run(self.watcher.execute(EMPTY))

    async def _open(self) -> None:
        self.watcher = await asyncpg.connect(self._url)
        await self.watcher.execute(
            PATIENCE.format(await self.watcher.fetchval("SELECT current_database()"))
        )
        self.slots = [await asyncpg.connect(self._url) for _ in range(SLOTS)]
        self.operator = await asyncpg.connect(self._url)
        self.person = await asyncpg.connect(self._url)
        self.pool = await asyncpg.create_pool(self._url, min_size=1, max_size=MOST_HOLDS)
        self.engine = create_engine(self._settings)
        self.context = Context(self._settings, self.engine, quiet_wakeups())

    async def _close(self) -> None:
        await self.engine.dispose()
        await self.pool.close()
        for connection in (self.watcher, self.operator, self.person, *self.slots):
            await connection.close()

    async def tables(self, names: Mapping[UUID, int]) -> Tables:
        """The rows by their keys, as `QueueModel.tables` has them, with these numbers for ids."""

        async def rows(query: str) -> list[tuple[Any, ...]]:
            return [tuple(names.get(v, v) for v in row) for row in await self.watcher.fetch(query)]

        return {
            "tasks": {row[0]: row[1:] for row in await rows(TASKS)},
            "queue": {row[0]: row[1:] for row in await rows(QUEUE)},
            "runs": {row[:2]: row[2:] for row in await rows(RUNS)},
            "workers": {row[0]: row[1:] for row in await rows(WORKERS)},
        }
