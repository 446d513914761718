"""Sending what runs came to, in batches: 1,000 rows, or what has come within 10 ms.

A batch that could not be sent is sent again; what then does not match was either recorded by the
first try (its answer was lost) or is a lost claim, whose result is discarded, counted and logged.
"""

import asyncio
import contextlib
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg
import structlog

from task_service.domain.outcomes import Outcome
from task_service.queue import results
from task_service.queue.claims import Claim
from task_service.queue.results import Attempt, Finished, GivenBack
from task_service.queue.statements import Connection
from task_service.store.database import Acquire, is_unavailable
from task_service.telemetry import metrics
from task_service.worker.endings import storable

BATCH = 1_000
WINDOW_SECONDS = 0.01
RETRY_SECONDS = 0.5
NOBODY = UUID(int=0)
log = structlog.get_logger(__name__)


class Report(NamedTuple):
    """What one attempt came to, and under which worker id it was claimed."""

    worker_id: UUID
    claim: Claim
    end: Finished | GivenBack

    @property
    def attempt(self) -> Attempt:
        """Task and fence."""
        return self.claim.task_id, self.claim.fence


Send = Callable[[Connection, UUID, list[Any]], Awaitable[set[Attempt]]]
"""Sends ends of this worker id, and returns those attempts that were not ours."""


class Reports:
    """The results of one process on their way to the database."""

    def __init__(self, acquire: Acquire) -> None:
        self._acquire = acquire
        self._clock: Callable[[], float] = asyncio.get_running_loop().time
        self._waiting: list[Report] = []
        self._sending: list[Report] = []
        self._arrived = asyncio.Event()
        self._sent = asyncio.Event()
        self._silent_since: float | None = None  # the server has answered no report since
        self.on_awaited: Callable[[list[UUID]], None] = lambda _: (
            None
        )  # others may wait for these tasks
        self.is_busy: Callable[[], bool] = lambda: False  # whether more results may follow at once
        self.on_room: Callable[[], None] = lambda: (
            None
        )  # a task under a limit ended, or waits for admission again

    def add(self, worker_id: UUID, claim: Claim, end: Finished | GivenBack) -> None:
        """Take one result; never blocks."""
        self._waiting.append(Report(worker_id, claim, end))
        self._arrived.set()

    async def run(self) -> None:
        """Send until cancelled."""
        await self._warm_up()
        while True:
            await self._arrived.wait()
            if len(self._waiting) < BATCH and self.is_busy():
                await asyncio.sleep(WINDOW_SECONDS)
            self._sending, self._waiting = self._waiting[:BATCH], self._waiting[BATCH:]
            if not self._waiting:
                self._arrived.clear()
            await self._send_surely(self._sending)
            if any(report.claim.limited for report in self._sending):
                self.on_room()
            self._sending = []
            self._sent.set()

    async def _warm_up(self) -> None:
        """Connect, and let the server load what reporting needs: some 15 ms that the first results
        do not wait for.
        """
        with contextlib.suppress(Exception):  # they will tell
            async with self._acquire() as connection:
                await results.finish_batch(connection, NOBODY, [])

    def attempts(self) -> set[Attempt]:
        """Those whose results are on their way."""
        return {report.attempt for report in (*self._waiting, *self._sending)}

    async def flushed(self) -> None:
        """Wait until everything reported so far is in the database, or discarded."""
        while self._waiting or self._sending:
            self._sent.clear()
            await self._sent.wait()

    def silent_seconds(self) -> float:
        """For how long the server has answered no report, though some were sent again and again."""
        return 0.0 if self._silent_since is None else self._clock() - self._silent_since

    async def _send_surely(self, batch: list[Report]) -> None:
        again = False
        while True:
            try:
                for (_, kind), reports in _groups(batch).items():
                    await self._send(
                        reports, self._finish if kind is Finished else _give_back, again=again
                    )
                self._silent_since = None
                return
            except Exception as error:
                if _is_answer(error):
                    self._silent_since = None
                elif self._silent_since is None:
                    self._silent_since = self._clock()
                log.warning(
                    "report_waits",
                    results=len(batch),
                    error=repr(error),
                    exc_info=not is_unavailable(error),
                )
                again = True
                await asyncio.sleep(RETRY_SECONDS)

    async def _send(self, reports: list[Report], send: Send, *, again: bool = False) -> None:
        worker_id = reports[0].worker_id
        async with self._acquire() as connection:
            try:
                lost = await send(connection, worker_id, [r.end for r in reports])
            except asyncpg.DataError as error:
                refused = error
            else:
                if again and lost:
                    lost -= await results.list_recorded_attempts(connection, worker_id, list(lost))
                _count(reports, lost)
                return
        await self._bisect(reports, send, refused)

    async def _bisect(self, reports: list[Report], send: Send, error: Exception) -> None:
        """One row that PostgreSQL cannot keep must not hold up its neighbours."""
        if len(reports) > 1:
            middle = len(reports) // 2
            await self._send(reports[:middle], send)
            await self._send(reports[middle:], send)
            return
        report = reports[0]
        log.error("result_refused", task_id=str(report.claim.task_id), error=str(error))
        text = storable(f"The result could not be kept: {error}")
        end = Finished(report.claim.task_id, report.claim.fence, Outcome.FAILED, error=text)
        await self._send([Report(report.worker_id, report.claim, end)], self._finish)

    async def _finish(
        self, connection: Connection, worker_id: UUID, ends: list[Finished]
    ) -> set[Attempt]:
        ended = await results.finish_batch(connection, worker_id, ends)
        if ended.awaited:
            self.on_awaited(ended.awaited)
        return ended.lost


async def _give_back(
    connection: Connection, worker_id: UUID, given: list[GivenBack]
) -> set[Attempt]:
    return {(g.task_id, g.fence) for g in given} - await results.give_back(
        connection, worker_id, given
    )


def _groups(batch: list[Report]) -> dict[tuple[UUID, type], list[Report]]:
    """By worker id and kind of end."""
    groups: defaultdict[tuple[UUID, type], list[Report]] = defaultdict(list)
    for report in batch:
        groups[report.worker_id, type(report.end)].append(report)
    return groups


def _is_answer(error: Exception) -> bool:
    """Whether the server, or a pooler before it, said so."""
    return isinstance(error, asyncpg.PostgresError) and not isinstance(
        error, asyncpg.ConnectionDoesNotExistError
    )


def _count(reports: list[Report], lost: set[Attempt]) -> None:
    for r in reports if lost else ():
        if r.attempt in lost:
            metrics.CLAIMS_LOST.inc()
            log.warning(
                "claim_lost",
                task_id=str(r.claim.task_id),
                fence=r.claim.fence,
                worker_id=str(r.worker_id),
            )
    ours = [r for r in reports if r.attempt not in lost] if lost else reports
    for labels, count in Counter(
        (r.claim.queue, r.claim.handler, r.end.outcome) for r in ours
    ).items():
        metrics.FINISHED.labels(*labels).inc(count)
