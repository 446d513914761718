"""The context of one run, as a handler sees it (see `handlers.Context`)."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any, TypeVar
from uuid import UUID

import asyncpg
import structlog

from task_service.domain.outcomes import Outcome
from task_service.domain.progress import Progress, check_progress
from task_service.queue import results
from task_service.queue.claims import Claim
from task_service.queue.dependencies import record_end
from task_service.queue.statements import Connection
from task_service.store.database import is_unavailable
from task_service.telemetry import metrics
from task_service.worker.endings import encode_result
from task_service.worker.handlers import LostClaimError
from task_service.worker.isolation.fork_safety import refuse_in_fork

T = TypeVar("T")
log = structlog.get_logger(__name__)


class HeldTransaction:
    """An open transaction that has the task's queue row locked."""

    def __init__(self, connection: Connection, context: "RunContext") -> None:
        self.connection = connection
        self.completes = False
        self._context = context

    async def complete(self, result: Any = None) -> None:
        """Complete the task in this commit."""
        context = self._context
        text, problem = encode_result(result)
        if problem:
            raise ValueError(problem)
        end = results.Finished(context.task_id, context.fence, Outcome.COMPLETED, result=text)
        ended = await results.finish_batch(self.connection, context.worker_id, [end])
        if ended.lost:
            raise LostClaimError
        if ended.awaited:
            await record_end(self.connection, context.task_id)
        self.completes = True


class RunContext:
    """Everything a handler may know and do about its run."""

    completed = False
    lost = False
    said: Progress | None = None  # what the database has not been told yet
    deadline = math.inf  # when the run is interrupted, by time.monotonic()
    _interrupted = False
    _ended = False

    def __init__(self, claim: Claim, worker_id: UUID, pool: asyncpg.Pool) -> None:
        self.task_id, self.fence, self.attempt = claim.task_id, claim.fence, claim.attempt
        self.max_attempts, self.queue, self.payload = claim.max_attempts, claim.queue, claim.payload
        self.worker_id, self._pool = worker_id, pool
        self._loop = asyncio.get_running_loop()

    @property
    def cancelled(self) -> bool:
        """Whether the run is to end."""
        return self._interrupted

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[HeldTransaction]:
        """See `handlers.Context.transaction`."""
        refuse_in_fork()
        async with self._pool.acquire() as connection:
            held = None
            try:
                async with connection.transaction():
                    await self._hold(connection)
                    held = HeldTransaction(connection, self)
                    yield held
                    self._still_ours()
            except Exception as error:
                if held is None or not held.completes or not is_unavailable(error):
                    raise
                await self._find_out(error)
                return
        self.completed = held.completes

    async def _hold(self, connection: Connection) -> None:
        self._still_ours()
        if not await results.lock_attempt(connection, self.worker_id, (self.task_id, self.fence)):
            self._lose()

    def _still_ours(self) -> None:
        if self.lost or self._ended:
            self._lose()

    def _lose(self) -> None:
        if not self.lost and not self._ended:
            metrics.CLAIMS_LOST.inc()
            log.warning(
                "claim_lost",
                task_id=str(self.task_id),
                fence=self.fence,
                worker_id=str(self.worker_id),
            )
        self.lost = True
        raise LostClaimError

    async def _find_out(self, error: Exception) -> None:
        """The answer to our commit was lost: ask whether it was done."""
        async with self._pool.acquire() as connection:
            attempts = [(self.task_id, self.fence)]
            if not await results.list_recorded_attempts(connection, self.worker_id, attempts):
                raise error
        self.completed = True

    async def extend(self, seconds: float) -> None:
        """See `handlers.Context.extend`."""
        refuse_in_fork()
        async with self._pool.acquire() as connection:
            if not await results.extend_deadline(
                connection, self.worker_id, (self.task_id, self.fence), seconds
            ):
                self._lose()
        self.deadline = time.monotonic() + seconds

    def progress(self, fraction: float, note: str | None = None) -> None:
        """See `handlers.Context.progress`."""
        refuse_in_fork()
        self.said = check_progress(fraction, note)

    def wait(self, awaitable: Awaitable[T]) -> T:
        """See `handlers.Context.wait`."""
        refuse_in_fork()

        async def run() -> T:
            return await awaitable

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result()

    def interrupt(self) -> None:
        """Let the handler know that it is to end."""
        self._interrupted = True

    def end(self) -> None:
        """The run is reported: nothing more can be written through this context."""
        self._ended = True
