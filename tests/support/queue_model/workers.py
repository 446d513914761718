"""What workers do, what is done to them, and what they report when they should not any more."""

import functools
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

from hypothesis import strategies as st

from task_service.domain.ids import new_id
from task_service.domain.outcomes import Outcome, Reason
from task_service.loops.maintenance import Maintenance
from task_service.queue import figures, results, workers
from task_service.queue.claims import Bounds, Claim, claim, claim_alone
from task_service.queue.workers import WorkerRow
from task_service.worker.context import HeldTransaction, RunContext
from task_service.worker.handlers import LostClaimError
from tests.support.queue_model.model import Attempt
from tests.support.queue_model.stage import SLOTS, Stage
from tests.support.queue_model.steps import Players, happens

EXPIRE = "UPDATE workers SET heartbeat_at = heartbeat_at - interval '1 day' WHERE id = $1"
STAND_STILL = "UPDATE workers SET heartbeat_at = heartbeat_at + interval '1 hour' WHERE id = $1"
"""Leases here have no length, so that the server is older than any; what renews one also moves it on by an hour."""
Report = tuple[int, list[Attempt]]
"""A worker and the attempts of which it tells: its own ones, those that it lost, or another worker's."""


class Back(NamedTuple):
    """How a task is given back."""

    outcome: Outcome
    reason: Reason | None
    delay_seconds: float
    counts: bool


RETRY = Back(Outcome.FAILED, None, 0, counts=True)
BACKOFF = Back(Outcome.TIMED_OUT, None, 3600, counts=True)
SNOOZE = Back(Outcome.SNOOZED, None, 3600, counts=False)
RELEASE = Back(Outcome.RELEASED, Reason.DRAIN, 0, counts=False)
HOW = st.sampled_from([RETRY, RELEASE, BACKOFF, RETRY, RELEASE, SNOOZE])
STRAY = Back(Outcome.RELEASED, Reason.OUTAGE, 0, counts=False)
OUTCOMES = st.sampled_from([Outcome.COMPLETED, Outcome.FAILED, Outcome.CANCELLED])
REASONS = st.sampled_from([Reason.CRASH, Reason.UNKNOWN, Reason.OOM, Reason.ROLLOUT])


@dataclass
class Hold:
    """A handler's open transaction."""

    worker: int
    attempt: Attempt
    manager: AbstractAsyncContextManager[HeldTransaction]
    transaction: HeldTransaction

    def __repr__(self) -> str:
        return f"<of worker {self.worker} on {self.attempt}>"


class UndoError(Exception):
    """The handler's transaction is rolled back."""


class Workers(Players):
    """Worker processes, the operator that judges them, and the sweep."""

    def __init__(self, stage: Stage) -> None:
        super().__init__(stage)
        self.unheard: set[Attempt] = set()
        self.holds: list[Hold] = []

    def teardown(self) -> None:
        """Leave no transaction open."""
        for hold in [*self.holds]:
            self._leave(hold, commit=False)
        super().teardown()

    # -- processes --
    def free_slots(self) -> range:
        """Where another process may start, while not every place has one that is active."""
        active = [worker for worker in self.model.workers.values() if worker.state == "active"]
        return range(SLOTS if len(active) < SLOTS else 0)

    @happens(2, slot=free_slots, queues=st.sampled_from(["ab", "ba", "b"]))
    def register(self, slot: int, queues: str) -> None:
        worker_id, connection = new_id(), self.stage.slots[slot]
        row = WorkerRow(
            id=worker_id, host="host", pod_name=None, pod_uid=None, container=None, slot=str(slot), node=None,
            version="1", queues=list(queues), concurrency=3, lease_seconds=0.001, process_started_at=datetime.now(UTC),
        )  # fmt: skip
        predecessors = self.run(workers.register(connection, row))
        self.run(connection.execute(STAND_STILL, worker_id))
        self.names[worker_id] = len(self.workers)
        self.workers.append(worker_id)
        assert {self.names[i] for i in predecessors} == self.model.register(slot, queues)

    def breathing(self) -> list[int]:
        """Workers that may renew their lease: more often when it is over."""
        return [
            *self.model.workers,
            *[name for name, worker in self.model.workers.items() if worker.expired] * 5,
        ]

    @happens(2, worker=breathing)
    def heartbeat(self, worker: int) -> None:
        lease = self.run(workers.heartbeat(self.connection(worker), self.workers[worker]))
        self.run(self.stage.watcher.execute(STAND_STILL, self.workers[worker]))
        answer = lease and (
            lease.draining,
            lease.drained_reason,
            {self.names[i] for i in lease.cancel_requested},
        )
        assert answer == self.model.heartbeat(worker)

    @happens(2, worker=Players.some_worker)
    def expire(self, worker: int) -> None:
        """Its lease is over, though nobody has noticed."""
        self.run(self.stage.operator.execute(EXPIRE, self.workers[worker]))
        self.model.workers[worker].expired = True

    @happens(worker=Players.some_worker, reason=REASONS)
    def drain(self, worker: int, reason: Reason) -> None:
        answer = self.run(workers.drain(self.stage.operator, self.workers[worker], reason))
        assert answer == self.model.drain(worker, reason)

    @happens(worker=Players.some_worker, reason=REASONS)
    def declare_dead(self, worker: int, reason: Reason) -> None:
        answer = self.run(workers.declare_dead(self.stage.operator, self.workers[worker], reason))
        assert answer == self.model.declare_dead(worker, reason)

    @happens(worker=Players.some_worker, reason=REASONS)
    def release(self, worker: int, reason: Reason) -> None:
        """As a successor in its slot does; one that lives keeps what it has."""
        answer = self.run(workers.release(self.stage.operator, self.workers[worker], reason))
        assert answer == self.model.release(worker, reason)

    def victims(self) -> list[int]:
        """Workers that may be lost: those that hold something more often."""
        return [
            *self.model.workers,
            *[worker for worker in self.model.workers if self.model.held_by(worker)] * 5,
        ]

    @happens(3, worker=victims, reason=REASONS)
    def rescue(self, worker: int, reason: Reason) -> None:
        """As the operator does."""
        answer = self.run(figures.release_worker(self.stage.operator, self.workers[worker], reason))
        assert answer == self.model.rescue(worker, reason)

    @happens(2, judges=st.booleans())
    def sweep(self, judges: bool) -> None:
        sweeper = Maintenance(
            self.stage.context.settings, self.stage.pool.acquire, may_judge=lambda: judges
        )
        self.run(sweeper.sweep(self.stage.operator, strangers=True))
        self.model.sweep(judges)

    @happens()
    def prune(self) -> None:
        self.run(workers.prune(self.stage.operator, 0))
        self.model.prune()

    # -- claims --
    def claimers(self, *, alone: bool = False) -> list[int]:
        """Anybody may try; those that will get something do it more often."""
        workers = [*self.model.workers]
        return (
            workers
            + [worker for worker in workers if self.model.claimable(worker, alone=alone)] * 5
        )

    @happens(
        14, worker=claimers, limit=st.integers(1, 3), started=st.booleans(), heard=st.integers(0, 3)
    )
    def claim(self, worker: int, limit: int, started: bool, heard: int) -> None:
        """One in four is not heard: its answer is lost after the commit."""
        connection, bounds = self.connection(worker), Bounds(self.model.workers[worker].queues)
        claims = self.run(
            claim(connection, self.workers[worker], bounds, limit, start_at_once=started)
        )
        self._claimed(worker, claims, self.model.claimable(worker)[:limit], started=started)
        if heard == 3:
            self.unheard |= self.named((c.task_id, c.fence) for c in claims)

    @happens(4, worker=functools.partial(claimers, alone=True))
    def claim_alone(self, worker: int) -> None:
        queues = self.model.workers[worker].queues
        found = self.run(claim_alone(self.connection(worker), self.workers[worker], queues, 0))
        expected = self.model.claimable(worker, alone=True)[:1]
        self._claimed(worker, [found] if found else [], expected, started=True)

    def _claimed(
        self, worker: int, claims: Sequence[Claim], expected: Sequence[int], *, started: bool
    ) -> None:
        """Of tasks that stand in one place any will do, as of those that were released by one statement."""
        got = [self.names[c.task_id] for c in claims]
        possible = self.model.claimable(worker) + self.model.claimable(worker, alone=True)
        assert len(set(got)) == len(got) and set(got) <= set(possible), (
            f"claimed {got} of {possible}"
        )
        assert sorted(self.model.place(worker, n) for n in got) == [
            self.model.place(worker, n) for n in expected
        ]
        for name, c in zip(got, claims, strict=True):
            row, task = self.model.claim(worker, name, started=started), self.model.tasks[name]
            assert (name, c.fence) not in self.claims, "a fence is given once"
            self.claims[name, c.fence] = c
            assert (c.fence, c.attempt, c.max_attempts) == (
                row.fence,
                row.attempt,
                task.max_attempts,
            )
            assert (c.queue, c.priority, c.handler) == (task.queue, task.priority, task.handler)
            assert (c.alone, c.cancel_requested) == (row.alone, row.cancel)

    # -- results --
    def known(self, worker: int) -> list[Attempt]:
        """The attempts of anybody that this worker may report without waiting for a lock."""
        wait = {
            a for a in self.model.held_by(worker) if a[0] in self.model.locked or a in self.unheard
        }
        return [attempt for attempt in self.claims if attempt not in wait]

    def reports(self) -> list[Report]:
        """What workers that hold something may report: mostly that, alone or beside what is nearly right."""
        possible = []
        for worker in self.model.workers:
            known = self.known(worker)
            for right in (attempt for attempt in known if self.model.is_ours(worker, attempt)):
                near = [a for a in known if a != right and self.model.is_nearly_ours(worker, a)]
                possible += [(worker, [right])] * 3
                possible += [
                    (worker, pair) for other in near for pair in ([right, other], [other, right])
                ]
        return possible

    def late_reports(self) -> list[Report]:
        """What any worker may report of all that there ever was: more often what is nearly right."""
        possible = []
        for worker in self.model.workers:
            for attempt in self.known(worker):
                possible += [(worker, [attempt])] * (
                    8 if self.model.is_nearly_ours(worker, attempt) else 1
                )
        return possible

    @happens(10, report=reports, outcome=OUTCOMES)
    def finish(self, report: Report, outcome: Outcome) -> None:
        worker, attempts = report
        ends = [results.Finished(task, fence, outcome) for task, fence in self.real(attempts)]
        done = self.run(results.finish(self.connection(worker), self.workers[worker], ends))
        assert self.named(done) == self.model.finish(worker, attempts, outcome)
        self._ask(worker, attempts)

    @happens(8, report=reports, how=HOW)
    def give_back(self, report: Report, how: Back) -> None:
        self._give_back(*report, how)
        self._ask(*report)

    @happens(worker=Players.some_worker)
    def give_back_strays(self, worker: int) -> None:
        """What the worker holds without having heard of it."""
        held = self.named(self.run(results.held(self.connection(worker), self.workers[worker])))
        assert held == self.model.held_by(worker)
        self._give_back(
            worker, sorted(a for a in held & self.unheard if a[0] not in self.model.locked), STRAY
        )

    def _give_back(self, worker: int, attempts: Sequence[Attempt], how: Back) -> None:
        given = [
            results.GivenBack(
                task, fence, how.outcome, how.reason, None, how.delay_seconds, how.counts
            )
            for task, fence in self.real(attempts)
        ]
        done = self.run(results.give_back(self.connection(worker), self.workers[worker], given))
        assert self.named(done) == self.model.give_back(worker, attempts, *how)

    def _ask(self, worker: int, attempts: Sequence[Attempt]) -> None:
        """What a worker is told that did not get the answer to its report."""
        known = self.run(
            results.recorded(self.connection(worker), self.workers[worker], self.real(attempts))
        )
        assert self.named(known) == self.model.recorded(worker, attempts)

    @happens(4, report=reports)
    def extend(self, report: Report) -> None:
        worker, attempts = report
        for attempt, real in zip(attempts, self.real(attempts), strict=True):
            ours = self.run(results.extend(self.connection(worker), self.workers[worker], real, 60))
            assert ours == self.model.extend(worker, attempt)

    @happens(4, report=late_reports, what=st.integers(0, 3))
    def report_late(self, report: Report, what: int) -> None:
        """A worker that was paused or cut off goes on as if nothing had happened."""
        match what:
            case 0:
                self.finish(report, Outcome.COMPLETED)
            case 1:
                self.give_back(report, RETRY)
            case 2:
                self.extend(report)
            case _:
                self.hold(report)

    # -- handlers' transactions --
    def open_holds(self) -> list[Hold]:
        """The transactions that are open."""
        return self.holds

    @happens(5, report=reports)
    def hold(self, report: Report) -> None:
        worker, [attempt, *_] = report
        manager = self.run(self._transaction(worker, attempt))
        try:
            transaction = self.run(manager.__aenter__())
        except LostClaimError:
            assert not self.model.is_ours(worker, attempt)
            return
        self.holds.append(Hold(worker, attempt, manager, transaction))
        self.model.locked.add(attempt[0])
        assert self.model.is_ours(worker, attempt)

    async def _transaction(
        self, worker: int, attempt: Attempt
    ) -> AbstractAsyncContextManager[HeldTransaction]:
        return RunContext(self.claims[attempt], self.workers[worker], self.stage.pool).transaction()

    @happens(3, hold=open_holds)
    def complete(self, hold: Hold) -> None:
        if not hold.transaction.completes:
            self.run(hold.transaction.complete())

    @happens(2, hold=open_holds, commit=st.booleans())
    def leave(self, hold: Hold, commit: bool) -> None:
        self._leave(hold, commit=commit)
        if commit and hold.transaction.completes:
            assert self.model.finish(hold.worker, [hold.attempt], Outcome.COMPLETED) == {
                hold.attempt
            }

    def _leave(self, hold: Hold, *, commit: bool) -> None:
        undo: tuple[Any, ...] = (None, None, None) if commit else (UndoError, UndoError(), None)
        self.run(hold.manager.__aexit__(*undo))
        self.holds.remove(hold)
        self.model.locked.remove(hold.attempt[0])
