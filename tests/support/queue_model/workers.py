"""Steps of workers, of the operator that judges them, and of late reports."""

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
from task_service.queue import results, workers
from task_service.queue.claims import Bounds, Claim, claim, claim_alone
from task_service.queue.workers import WorkerRow
from task_service.worker.context import HeldTransaction, RunContext
from task_service.worker.handlers import LostClaimError
from tests.support.queue_model.model import Attempt
from tests.support.queue_model.real_queue import SLOTS, RealQueue
from tests.support.queue_model.steps import ModelMachine, step

EXPIRE = "UPDATE workers SET heartbeat_at = heartbeat_at - interval '1 day' WHERE id = $1"
EXTEND_LEASE = "UPDATE workers SET heartbeat_at = heartbeat_at + interval '1 hour' WHERE id = $1"
"""Leases are a millisecond long, shorter than the server's uptime; a renewal adds an hour."""
Report = tuple[int, list[Attempt]]
"""Worker and the attempts that it reports: its own, lost ones, or those of another worker."""


class Return(NamedTuple):
    """Way in which a task is returned to the queue."""

    outcome: Outcome
    reason: Reason | None
    delay_seconds: float
    counts: bool


RETRY = Return(Outcome.FAILED, None, 0, counts=True)
BACKOFF = Return(Outcome.TIMED_OUT, None, 3600, counts=True)
SNOOZE = Return(Outcome.SNOOZED, None, 3600, counts=False)
RELEASE = Return(Outcome.RELEASED, Reason.DRAIN, 0, counts=False)
HOW = st.sampled_from([RETRY, RELEASE, BACKOFF, RETRY, RELEASE, SNOOZE])
ORPHANED = Return(Outcome.RELEASED, Reason.OUTAGE, 0, counts=False)
OUTCOMES = st.sampled_from([Outcome.COMPLETED, Outcome.FAILED, Outcome.CANCELLED])
REASONS = st.sampled_from([Reason.CRASH, Reason.UNKNOWN, Reason.OOM, Reason.ROLLOUT])


@dataclass
class Hold:
    """Open transaction of a handler."""

    worker: int
    attempt: Attempt
    manager: AbstractAsyncContextManager[HeldTransaction]
    transaction: HeldTransaction

    def __repr__(self) -> str:
        return f"<of worker {self.worker} on {self.attempt}>"


class UndoError(Exception):
    """Raised to roll back the handler's transaction."""


class Workers(ModelMachine):
    """Steps of worker processes, the operator and the sweep."""

    def __init__(self, real_queue: RealQueue) -> None:
        super().__init__(real_queue)
        self.unreceived: set[Attempt] = set()
        self.holds: list[Hold] = []

    def teardown(self) -> None:
        """Close all open transactions."""
        for hold in [*self.holds]:
            self._leave(hold, commit=False)
        super().teardown()

    # -- processes --
    def free_slots(self) -> range:
        """Return the slots in which a process may start, unless all slots have an active one."""
        active = [worker for worker in self.model.workers.values() if worker.state == "active"]
        return range(SLOTS if len(active) < SLOTS else 0)

    @step(2, slot=free_slots, queues=st.sampled_from(["ab", "ba", "b"]))
    def register(self, slot: int, queues: str) -> None:
        worker_id, connection = new_id(), self.real_queue.slots[slot]
        row = WorkerRow(
            id=worker_id,
            host="host",
            pod_name=None,
            pod_uid=None,
            container=None,
            slot=str(slot),
            node=None,
            version="1",
            queues=list(queues),
            concurrency=3,
            lease_seconds=0.001,
            process_started_at=datetime.now(UTC),
        )
        predecessors = self.run(workers.register(connection, row))
        self.run(connection.execute(EXTEND_LEASE, worker_id))
        self.names[worker_id] = len(self.workers)
        self.workers.append(worker_id)
        assert {self.names[i] for i in predecessors} == self.model.register(slot, queues)

    def heartbeat_candidates(self) -> list[int]:
        """Return the workers that may send a heartbeat, expired ones several times."""
        return [
            *self.model.workers,
            *[name for name, worker in self.model.workers.items() if worker.expired] * 5,
        ]

    @step(2, worker=heartbeat_candidates)
    def heartbeat(self, worker: int) -> None:
        lease = self.run(workers.heartbeat(self.connection(worker), self.workers[worker]))
        self.run(self.real_queue.observer.execute(EXTEND_LEASE, self.workers[worker]))
        answer = lease and (
            lease.draining,
            lease.drained_reason,
            {self.names[i] for i in lease.cancel_requested},
        )
        assert answer == self.model.heartbeat(worker)

    @step(2, worker=ModelMachine.some_worker)
    def expire(self, worker: int) -> None:
        """Let the lease expire without declaring the worker dead."""
        self.run(self.real_queue.operator.execute(EXPIRE, self.workers[worker]))
        self.model.workers[worker].expired = True

    @step(worker=ModelMachine.some_worker, reason=REASONS)
    def drain(self, worker: int, reason: Reason) -> None:
        answer = self.run(workers.drain(self.real_queue.operator, self.workers[worker], reason))
        assert answer == self.model.drain(worker, reason)

    @step(worker=ModelMachine.some_worker, reason=REASONS)
    def declare_dead(self, worker: int, reason: Reason) -> None:
        answer = self.run(
            workers.declare_dead(self.real_queue.operator, self.workers[worker], reason)
        )
        assert answer == self.model.declare_dead(worker, reason)

    @step(worker=ModelMachine.some_worker, reason=REASONS)
    def release(self, worker: int, reason: Reason) -> None:
        """Release as a successor in the slot does; a living worker keeps its tasks."""
        answer = self.run(workers.release(self.real_queue.operator, self.workers[worker], reason))
        assert answer == self.model.release(worker, reason)

    def victims(self) -> list[int]:
        """Return the workers that may be lost, those with claims several times."""
        return [
            *self.model.workers,
            *[worker for worker in self.model.workers if self.model.held_by(worker)] * 5,
        ]

    @step(3, worker=victims, reason=REASONS)
    def rescue(self, worker: int, reason: Reason) -> None:
        """Release the worker as the operator does."""
        answer = self.run(
            workers.release_worker(self.real_queue.operator, self.workers[worker], reason)
        )
        assert answer == self.model.rescue(worker, reason)

    @step(2, judges=st.booleans())
    def sweep(self, judges: bool) -> None:
        sweeper = Maintenance(
            self.real_queue.transactions.settings,
            self.real_queue.pool.acquire,
            may_judge=lambda: judges,
        )
        self.run(sweeper.sweep(self.real_queue.operator, orphans=True))
        self.model.sweep(judges)

    @step()
    def prune(self) -> None:
        self.run(workers.prune(self.real_queue.operator, 0))
        self.model.prune()

    # -- claims --
    def claimers(self, *, alone: bool = False) -> list[int]:
        """Return all workers, those that can claim a task several times."""
        workers = [*self.model.workers]
        return (
            workers
            + [worker for worker in workers if self.model.claimable(worker, alone=alone)] * 5
        )

    @step(
        14,
        worker=claimers,
        limit=st.integers(1, 3),
        started=st.booleans(),
        received=st.integers(0, 3),
    )
    def claim(self, worker: int, limit: int, started: bool, received: int) -> None:
        """Claim tasks; the response of every fourth claim is lost after the commit."""
        connection, bounds = self.connection(worker), Bounds(self.model.workers[worker].queues)
        claims = self.run(
            claim(connection, self.workers[worker], bounds, limit, start_at_once=started)
        )
        self._claimed(worker, claims, self.model.claimable(worker)[:limit], started=started)
        if received == 3:
            self.unreceived |= self.named((c.task_id, c.fence) for c in claims)

    @step(4, worker=functools.partial(claimers, alone=True))
    def claim_alone(self, worker: int) -> None:
        queues = self.model.workers[worker].queues
        claimed = self.run(claim_alone(self.connection(worker), self.workers[worker], queues, 0))
        expected = self.model.claimable(worker, alone=True)[:1]
        self._claimed(worker, [claimed] if claimed else [], expected, started=True)

    def _claimed(
        self, worker: int, claims: Sequence[Claim], expected: Sequence[int], *, started: bool
    ) -> None:
        """Check the claims; tasks with an equal sort key may be claimed in any order."""
        got = [self.names[c.task_id] for c in claims]
        possible = self.model.claimable(worker) + self.model.claimable(worker, alone=True)
        assert len(set(got)) == len(got) and set(got) <= set(possible), (
            f"claimed {got} of {possible}"
        )
        assert sorted(self.model.sort_key(worker, n) for n in got) == [
            self.model.sort_key(worker, n) for n in expected
        ]
        for name, c in zip(got, claims, strict=True):
            row, task = self.model.claim(worker, name, started=started), self.model.tasks[name]
            assert (name, c.fence) not in self.claims, "a fence is used only once"
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
        """Return all attempts that this worker may report without waiting for a lock."""
        wait = {
            a
            for a in self.model.held_by(worker)
            if a[0] in self.model.locked or a in self.unreceived
        }
        return [attempt for attempt in self.claims if attempt not in wait]

    def reports(self) -> list[Report]:
        """Return reports of current claims, alone or with an attempt that is almost correct."""
        possible = []
        for worker in self.model.workers:
            known = self.known(worker)
            for right in (attempt for attempt in known if self.model.holds(worker, attempt)):
                near = [
                    a for a in known if a != right and self.model.holds_task_or_fence(worker, a)
                ]
                possible += [(worker, [right])] * 3
                possible += [
                    (worker, pair) for other in near for pair in ([right, other], [other, right])
                ]
        return possible

    def late_reports(self) -> list[Report]:
        """Return reports of any attempt by any worker, almost correct ones several times."""
        possible = []
        for worker in self.model.workers:
            for attempt in self.known(worker):
                possible += [(worker, [attempt])] * (
                    8 if self.model.holds_task_or_fence(worker, attempt) else 1
                )
        return possible

    @step(10, report=reports, outcome=OUTCOMES)
    def finish(self, report: Report, outcome: Outcome) -> None:
        worker, attempts = report
        ends = [results.Finished(task, fence, outcome) for task, fence in self.real(attempts)]
        done = self.run(results.finish(self.connection(worker), self.workers[worker], ends))
        assert self.named(done) == self.model.finish(worker, attempts, outcome)
        self._query_recorded(worker, attempts)

    @step(8, report=reports, how=HOW)
    def give_back(self, report: Report, how: Return) -> None:
        self._give_back(*report, how)
        self._query_recorded(*report)

    @step(worker=ModelMachine.some_worker)
    def return_orphaned(self, worker: int) -> None:
        """Return the claims that the worker holds without having received them."""
        held = self.named(
            self.run(results.list_attempts(self.connection(worker), self.workers[worker]))
        )
        assert held == self.model.held_by(worker)
        self._give_back(
            worker,
            sorted(a for a in held & self.unreceived if a[0] not in self.model.locked),
            ORPHANED,
        )

    def _give_back(self, worker: int, attempts: Sequence[Attempt], how: Return) -> None:
        returned = [
            results.GivenBack(
                task, fence, how.outcome, how.reason, None, how.delay_seconds, how.counts
            )
            for task, fence in self.real(attempts)
        ]
        done = self.run(results.give_back(self.connection(worker), self.workers[worker], returned))
        assert self.named(done) == self.model.give_back(worker, attempts, *how)

    def _query_recorded(self, worker: int, attempts: Sequence[Attempt]) -> None:
        """Query which attempts are recorded, as a worker does that got no response."""
        known = self.run(
            results.list_recorded_attempts(
                self.connection(worker), self.workers[worker], self.real(attempts)
            )
        )
        assert self.named(known) == self.model.recorded(worker, attempts)

    @step(4, report=reports)
    def extend(self, report: Report) -> None:
        worker, attempts = report
        for attempt, real in zip(attempts, self.real(attempts), strict=True):
            ours = self.run(
                results.extend_deadline(self.connection(worker), self.workers[worker], real, 60)
            )
            assert ours == self.model.extend(worker, attempt)

    @step(4, report=late_reports, action=st.integers(0, 3))
    def report_late(self, report: Report, action: int) -> None:
        """Report as a worker does that was paused or disconnected in the meantime."""
        match action:
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
        """Return the open transactions."""
        return self.holds

    @step(5, report=reports)
    def hold(self, report: Report) -> None:
        worker, [attempt, *_] = report
        manager = self.run(self._transaction(worker, attempt))
        try:
            transaction = self.run(manager.__aenter__())
        except LostClaimError:
            assert not self.model.holds(worker, attempt)
            return
        self.holds.append(Hold(worker, attempt, manager, transaction))
        self.model.locked.add(attempt[0])
        assert self.model.holds(worker, attempt)

    async def _transaction(
        self, worker: int, attempt: Attempt
    ) -> AbstractAsyncContextManager[HeldTransaction]:
        return RunContext(
            self.claims[attempt], self.workers[worker], self.real_queue.pool
        ).transaction()

    @step(3, hold=open_holds)
    def complete(self, hold: Hold) -> None:
        if not hold.transaction.completes:
            self.run(hold.transaction.complete())

    @step(2, hold=open_holds, commit=st.booleans())
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
