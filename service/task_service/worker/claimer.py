"""The claim loop: as many tasks as there are free slots, a few more when tasks are quick, again
when woken.

The answer to a claim can be lost after its commit. The tasks are then ours, and nobody would ever
take them from a worker that lives: now and then, and after each failure, what we hold without
knowing of it is given back.
"""

import asyncio
import contextlib
import random
from collections import deque
from collections.abc import Callable
from uuid import UUID

import structlog

from task_service.domain.outcomes import Outcome, Reason
from task_service.queue import results
from task_service.queue.claims import (
    ALONE_AFTER_SECONDS,
    Bounds,
    Claim,
    claim,
    claim_alone,
    claim_in_slot,
    claim_slots,
)
from task_service.queue.results import GivenBack
from task_service.queue.wakeups import WINDOW_SECONDS
from task_service.settings import Settings
from task_service.store.database import Acquire, is_unavailable
from task_service.telemetry import metrics
from task_service.worker.membership import Membership
from task_service.worker.reports import Reports
from task_service.worker.runner import Runner

BATCH = 1_000
AHEAD = 3 * BATCH
"""At most so many are claimed ahead: one claim is under way while handlers run what two others
brought.
"""
PATIENCE_SECONDS = 0.5
"""What was claimed ahead stays so long when handlers seem to be slow: they may only have lacked a
processor.
"""
LOOK_BEHIND_SECONDS = (0.25, 5.0)
FORGET_BOUNDS_SECONDS = (5.0, 60.0)
SHARE = 0.05
"""A claim looks behind its bounds, or forgets them, once in so many seconds (least, most), between
which it takes this share of the time: it takes long where a transaction that is held open keeps in
the index what was claimed long ago.
"""
PAUSES_SECONDS = (0.002, 0.004, 0.008, 0.016, 0.032, 0.064)
"""About so long after each attempt to have a turn."""
LOOK_AGAIN_SECONDS = 0.003
"""Where tasks come faster than notifications, which writers merge, we look so often for the next
ones.
"""
log = structlog.get_logger(__name__)


class Claimer:
    """Claims for one process and hands to its runner. `wake` is set by notifications."""

    def __init__(
        self,
        settings: Settings,
        acquire: Acquire,
        membership: Membership,
        runner: Runner,
        reports: Reports,
    ) -> None:
        """`acquire` lends a connection with `LOOK_UPS`."""
        self.settings, self.membership, self.runner, self.reports = (
            settings,
            membership,
            runner,
            reports,
        )
        self._acquire = acquire
        self.wake = asyncio.Event()
        self.stopped = False
        self._waiting: deque[tuple[UUID, Claim]] = deque()  # claimed, not started: prefetched
        self._alone: tuple[UUID, Claim] | None = None
        self._bounds, self._slots = (
            Bounds(settings.worker_queues),
            claim_slots(settings.worker_queues),
        )
        self._clock: Callable[[], float] = asyncio.get_running_loop().time
        self._forget_at = self._look_behind_at = self._look_for_alone_at = (
            self._look_for_strays_at
        ) = 0.0
        self._claimed_at = 0.0
        self._more = False  # more are there, or come at once
        self._looked_behind = True
        self._found_at, self._gap = float("-inf"), float("inf")
        self._starting = False
        runner.on_slot_free = self.start_waiting

    async def run(self) -> None:
        """Claim until cancelled; a database that is away is tried again every second."""
        while True:
            try:
                rest = await self._once()
            except Exception as error:
                log.warning("claim_failed", error=repr(error), exc_info=not is_unavailable(error))
                self._look_for_strays_at = 0.0
                self.start_waiting()
                rest = self.settings.poll_seconds
            if rest:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.wake.wait(), rest)
                self.wake.clear()

    def stop(self) -> None:
        """Claim no more, and give back what was only prefetched."""
        self.stopped = True
        self.give_back_waiting(Reason.SHUTDOWN)

    def drop(self) -> None:
        """The lease is lost: so is everything claimed."""
        self._waiting.clear()
        self._alone = None

    def give_back_waiting(self, reason: Reason) -> None:
        """Return claimed tasks that have not started, uncounted."""
        waiting = self._unstarted()
        self.drop()
        for worker_id, c in waiting:
            self.reports.add(
                worker_id, c, GivenBack(c.task_id, c.fence, Outcome.RELEASED, reason, counts=False)
            )

    async def _once(self) -> float:
        """One claim, if there is room for it; for so many seconds there is then nothing to do
        unless we are woken.
        """
        idle = self.settings.poll_seconds
        if not self.membership.may_start():
            return idle
        if self._clock() >= self._look_for_strays_at:
            await self._give_back_strays()
        if self.stopped:
            return idle
        if self._alone is not None:
            self.start_waiting()
        if self._alone is not None or any(run.claim.alone for run in self.runner.running):
            return await self._until_slot_free()
        slots = self.settings.worker_concurrency
        ahead = min(self.runner.ahead(slots), AHEAD)
        if self._waiting and not ahead and self._clock() - self._claimed_at > PATIENCE_SECONDS:
            self.give_back_waiting(Reason.DRAIN)  # they turned out slow: others may have them
        free = slots - len(self.runner.running) - len(self._waiting)
        limit = min(free + ahead, BATCH)
        if free <= 0 and limit < min(BATCH, ahead // 2 + 1):
            return 0.0 if self._start_some() else await self._until_slot_free()
        claims = await self._claim_beside(limit, start_at_once=limit <= free)
        rest = 0.0 if len(claims) == limit else self._rest(found=bool(claims))
        self._more = rest < idle
        if rest:  # else they start when the next claim is under way
            self.start_waiting()
        _count(claims)
        if not self._more and not self._looked_behind:
            return min(LOOK_AGAIN_SECONDS, idle)
        if await self._look_for_alone(idle=rest == idle and not claims and not self.runner.running):
            return 0
        if ahead:
            await asyncio.sleep(
                0
            )  # handlers that never wait must not keep the loop from the other ones
        return rest

    def _rest(self, *, found: bool) -> float:
        """Seconds until it is worth to look again, after a claim that had room for more."""
        now = self._clock()
        if found:
            self._gap, self._found_at = now - self._found_at, now
        come_fast = self._gap < 2 * WINDOW_SECONDS and now - self._found_at < WINDOW_SECONDS
        return (
            min(LOOK_AGAIN_SECONDS, self.settings.poll_seconds)
            if come_fast
            else self.settings.poll_seconds
        )

    async def _claim_beside(self, limit: int, *, start_at_once: bool) -> list[Claim]:
        """Claim, and while the server does, start what the last claim brought."""
        if not self._waiting:
            return await self._claim(limit, start_at_once=start_at_once)
        claiming = asyncio.create_task(self._claim(limit, start_at_once=start_at_once))
        try:
            for _ in range(2):  # one turn of the loop sends it, with uvloop at its end
                await asyncio.sleep(0)
            self.start_waiting()
            return await claiming
        finally:
            claiming.cancel()  # it has ended, unless we are cancelled

    async def _claim(self, limit: int, *, start_at_once: bool) -> list[Claim]:
        worker_id = self.membership.worker_id
        if worker_id is None:
            return []
        began = self._clock()
        forgets = began >= self._forget_at
        look_back = self._looked_behind = forgets or not self._more or began >= self._look_behind_at
        if forgets:
            self._bounds.reset()
        self.wake.clear()
        claims = await self._claim_in_slot(
            worker_id, limit, start_at_once=start_at_once, look_back=look_back
        )
        if look_back:
            self._look_behind_at = self._not_before(began, LOOK_BEHIND_SECONDS)
        if forgets:
            self._forget_at = self._not_before(began, FORGET_BOUNDS_SECONDS)
        if (
            claims and worker_id == self.membership.worker_id
        ):  # else: declared dead meanwhile, others have them
            self._waiting.extend((worker_id, c) for c in claims)
            self._claimed_at = self._clock()
        return claims

    async def _claim_in_slot(
        self, worker_id: UUID, limit: int, *, start_at_once: bool, look_back: bool
    ) -> list[Claim]:
        """Claim in a free slot; after several attempts without one, because its holders may hang."""
        how = {"start_at_once": start_at_once, "look_back": look_back}
        for pause in PAUSES_SECONDS:
            async with self._acquire() as connection:
                slot = random.choice(self._slots)  # noqa: S311
                claims = await claim_in_slot(
                    connection, worker_id, self._bounds, limit, slot, **how
                )
            if claims is not None:
                return claims
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311
        async with self._acquire() as connection:
            return await claim(connection, worker_id, self._bounds, limit, **how)

    def _not_before(self, began: float, seconds: tuple[float, float]) -> float:
        """When to do again what has just ended."""
        least, most = seconds
        return self._clock() + min(max((self._clock() - began) / SHARE, least), most)

    def _start_some(self) -> bool:
        waiting = len(self._waiting)
        self.start_waiting()
        return len(self._waiting) < waiting

    def start_waiting(self) -> None:
        """Start what was claimed while slots are free; nothing when the lease does not hold."""
        if (
            self._starting
        ):  # a handler that never waits has ended inside `start`: the loop below goes on
            return
        self._starting = True
        try:
            self._start_waiting()
        finally:
            self._starting = False

    def _start_waiting(self) -> None:
        running = self.runner.running
        while (
            self._waiting
            and len(running) < self.settings.worker_concurrency
            and self.membership.may_start()
        ):
            worker_id, c = self._waiting.popleft()
            self.runner.start(c, worker_id)
        if (
            self._alone is not None
            and not running
            and not self._waiting
            and self.membership.may_start()
        ):
            (worker_id, c), self._alone = self._alone, None
            log.warning("running_alone", task_id=str(c.task_id), attempt=c.attempt)
            self.runner.start(c, worker_id)

    async def _look_for_alone(self, *, idle: bool) -> bool:
        """Now and then, look for a task that must run alone; a busy worker leaves it to idle ones
        for a while.
        """
        worker_id = self.membership.worker_id
        if worker_id is None or (not idle and self._clock() < self._look_for_alone_at):
            return False
        self._look_for_alone_at = self._clock() + self.settings.poll_seconds
        waited = 0.0 if idle else ALONE_AFTER_SECONDS
        async with self._acquire() as connection:
            found = await claim_alone(connection, worker_id, self.settings.worker_queues, waited)
        if found is not None and worker_id == self.membership.worker_id:
            self._alone = (worker_id, found)
            self.start_waiting()
        return found is not None

    async def _give_back_strays(self) -> None:
        """Give back, uncounted, what the database says we hold and we never heard of; next time
        what commits late.
        """
        worker_id = self.membership.worker_id
        if worker_id is None:
            return
        async with self._acquire() as connection:
            held = await results.list_attempts(connection, worker_id)
            claims = [c for _, c in self._unstarted()] + [run.claim for run in self.runner.running]
            known = {(c.task_id, c.fence) for c in claims} | self.reports.attempts()
            strays = [
                GivenBack(*a, Outcome.RELEASED, Reason.OUTAGE, counts=False) for a in held - known
            ]
            if strays:
                given = await results.give_back(connection, worker_id, strays)
                metrics.RELEASED.labels(Reason.OUTAGE).inc(len(given))
                log.warning("strays_given_back", worker_id=str(worker_id), tasks=len(given))
        self._look_for_strays_at = self._clock() + self.settings.lease_seconds

    def _unstarted(self) -> list[tuple[UUID, Claim]]:
        return [*self._waiting, *([self._alone] if self._alone else [])]

    async def _until_slot_free(self) -> float:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.runner.until_slot_free(), self.settings.poll_seconds)
        return 0


def _count(claims: list[Claim]) -> None:
    for queue in {c.queue for c in claims}:
        waits = [c.waited for c in claims if c.queue == queue]
        metrics.CLAIMED.labels(queue).inc(len(waits))
        histogram = metrics.WAIT_SECONDS.labels(queue)
        for seconds in waits:
            histogram.observe(max(0.0, seconds))
