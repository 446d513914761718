"""Statistics of all tasks, and the loop of an API process that keeps them quick to read."""

import asyncio
import contextlib
from dataclasses import dataclass

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from task_service.domain.priorities import BY_RANK, Priority
from task_service.domain.statuses import Status
from task_service.queue.counts import fold
from task_service.queue.figures import queue_figures
from task_service.store.counts import Numbers, read_numbers
from task_service.store.database import is_unavailable, raw

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Summary:
    """How many tasks there are, without the deleted ones: in all, by status and by priority."""

    total: int
    by_status: dict[Status, int]
    by_priority: dict[Priority, int]


async def summarize(engine: AsyncEngine) -> Summary:
    """The statistics, in one snapshot. The cost does not depend on how many tasks there are (see `figures.sql`)."""
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="REPEATABLE READ")
        numbers = await read_numbers(connection)
        queue = await queue_figures(await raw(connection))
    by_priority = {priority: numbers.by_rank.get(rank, 0) for rank, priority in enumerate(BY_RANK)}
    return Summary(sum(by_priority.values()), by_status(numbers, queue), by_priority)


def by_status(numbers: Numbers, queue: dict[str, int]) -> dict[Status, int]:
    """Statuses from what they derive from: the queue, final runs, and what people set.

    >>> numbers = Numbers({2: 10}, {"pending": 3}, 1, {"failed": 2}, {"processing": 1})
    >>> queue = {"ready": 4, "blocked": 0, "scheduled": 1, "running": 1}
    >>> {str(s): n for s, n in by_status(numbers, queue).items() if n}
    {'pending': 6, 'scheduled': 2, 'failed': 2}
    """
    shown = {
        Status.PENDING: queue["ready"] + queue["blocked"] - numbers.own_scheduled,
        Status.SCHEDULED: queue["scheduled"] + numbers.own_scheduled,
        Status.PROCESSING: queue["running"],
    }
    return {
        s: max(
            0,
            shown.get(s, 0)
            + numbers.own.get(s, 0)
            + numbers.ended.get(s, 0)
            - numbers.hidden.get(s, 0),
        )
        for s in Status
    }


class Folding:
    """Folds changed numbers every `seconds`, also where no worker runs. Starts and stops with the process."""

    def __init__(self, engine: AsyncEngine, seconds: float) -> None:
        self._engine, self._seconds = engine, seconds
        self._loop: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin; returns at once."""
        self._loop = asyncio.create_task(self._run(), name="folding")

    async def stop(self) -> None:
        """End; what is not folded yet is counted all the same."""
        if self._loop is not None:
            self._loop.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._loop

    async def _run(self) -> None:
        statements = self._engine.execution_options(isolation_level="AUTOCOMMIT")
        while True:
            await asyncio.sleep(self._seconds)
            try:
                async with statements.connect() as connection:
                    await fold(await raw(connection))
            except Exception as error:
                log.warning("folding_failed", error=repr(error), exc_info=not is_unavailable(error))
