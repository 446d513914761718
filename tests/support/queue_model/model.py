"""Model of the queue, without a database.

Tasks and workers are numbered in order of creation. Time is counted in steps: `due` is the step in
which a task became due, or None while it is scheduled. Every method is one step and returns the
expected result of the real queue.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from task_service.domain.errors import HeldByWorkerError, NotFoundError
from task_service.domain.outcomes import (
    ALONE_AFTER_LOSSES,
    POISON_AFTER_LOSSES,
    Outcome,
    Reason,
)
from task_service.domain.statuses import OPEN, Status, check_change
from task_service.queue.workers import Release, ReleaseResult
from tests.support.queue_model.model_rows import Row, Task, Worker

Attempt = tuple[int, int]
"""Number of a task, and the fence of the claim."""
Tables = dict[str, dict[Any, tuple[Any, ...]]]
"""Rows of each table by key."""


class QueueModel:
    """All tasks and workers; `locked` are tasks whose rows another transaction has locked."""

    def __init__(self) -> None:
        self.now = 0
        self.created = 0
        self.tasks: dict[int, Task] = {}
        self.workers: dict[int, Worker] = {}
        self.paused: set[str] = set()
        self.locked: set[int] = set()

    # -- claims and results --
    def claimable(self, worker: int, *, alone: bool = False) -> list[int]:
        """Return the tasks that a worker may claim, in claim order."""
        mine = self.workers[worker]
        names = [
            name
            for name, task in self.tasks.items()
            if task.is_due
            and task.row is not None
            and task.row.alone == alone
            and task.queue in mine.queues
            and task.queue not in self.paused
            and name not in self.locked
        ]
        if mine.state != "active":
            return []
        return sorted(names, key=lambda name: self.sort_key(worker, name))

    def sort_key(self, worker: int, name: int) -> tuple[int, int, int]:
        """Return the claim order of a task for this worker, equal for tasks of the same step."""
        task = self.tasks[name]
        assert task.row is not None and task.row.due is not None
        return (
            0 if task.row.alone else task.priority,
            self.workers[worker].queues.index(task.queue),
            task.row.due,
        )

    def claim(self, worker: int, name: int, *, started: bool) -> Row:
        """Claim the task under the next fence."""
        row = self.tasks[name].row
        assert row is not None
        row.worker, row.started = worker, started
        row.fence += 1
        row.attempt += 1
        return row

    def holds(self, worker: int, attempt: Attempt) -> bool:
        """Return whether the worker holds this claim."""
        row = self.tasks[attempt[0]].row if attempt[0] in self.tasks else None
        return row is not None and row.worker == worker and row.fence == attempt[1]

    def holds_task_or_fence(self, worker: int, attempt: Attempt) -> bool:
        """Return whether the worker or the fence is that of the claim."""
        row = self.tasks[attempt[0]].row if attempt[0] in self.tasks else None
        return row is not None and (row.worker == worker or row.fence == attempt[1])

    def held_by(self, worker: int) -> set[Attempt]:
        """Return the claims that the worker holds."""
        return {
            (n, t.row.fence)
            for n, t in self.tasks.items()
            if t.row is not None and t.row.worker == worker
        }

    def finish(self, worker: int, attempts: Iterable[Attempt], outcome: Outcome) -> set[Attempt]:
        """End the attempts that the worker holds."""
        ours = {attempt for attempt in attempts if self.holds(worker, attempt)}
        for name, _ in ours:
            self.tasks[name].end(final=True, worker=worker, outcome=outcome)
        return ours

    def give_back(
        self,
        worker: int,
        attempts: Iterable[Attempt],
        outcome: Outcome,
        reason: Reason | None,
        delay: float,
        counts: bool,
    ) -> set[Attempt]:
        """Return the attempts that the worker holds to the queue."""
        ours = {attempt for attempt in attempts if self.holds(worker, attempt)}
        for name, _ in ours:
            row = self.tasks[name].end(
                final=False, worker=worker, outcome=outcome, reason=reason and reason.value
            )
            row.due = None if delay else self.now
            row.attempt -= not counts
        return ours

    def extend(self, worker: int, attempt: Attempt) -> bool:
        """Extend the deadline of an attempt that the worker holds."""
        row = self.tasks[attempt[0]].row if attempt[0] in self.tasks else None
        ours = self.holds(worker, attempt)
        if row is not None:
            row.extended = row.extended or ours
        return ours

    def recorded(self, worker: int, attempts: Iterable[Attempt]) -> set[Attempt]:
        """Return the attempts that the worker has reported."""
        runs = {
            (n, fence): run for n, task in self.tasks.items() for fence, run in task.runs.items()
        }
        return {
            a
            for a in attempts
            if a in runs and runs[a].worker == worker and runs[a].outcome != Outcome.LOST
        }

    # -- workers --
    def register(self, slot: int, queues: Sequence[str]) -> set[int]:
        """Register a worker and return its predecessors."""
        before = {
            n for n, w in self.workers.items() if w.slot == slot and not w.released and not w.pruned
        }
        self.workers[len(self.workers)] = Worker(slot, queues)
        return before

    def heartbeat(self, worker: int) -> tuple[bool, Reason | None, set[int]] | None:
        """Renew the lease; return drain state and reason and tasks to cancel, or None if dead."""
        mine = self.workers[worker]
        if mine.state == "dead":
            return None
        mine.expired = False
        rows = {name: self.tasks[name].row for name, _ in self.held_by(worker)}
        return (
            mine.state == "draining",
            mine.drained,
            {name for name, row in rows.items() if row and row.cancel},
        )

    def drain(self, worker: int, reason: Reason) -> str | None:
        """Make a worker stop claiming."""
        mine = self.workers[worker]
        if mine.state == "active":
            mine.state, mine.drained = "draining", reason
        return None if mine.pruned else mine.state

    def declare_dead(self, worker: int, reason: Reason) -> bool:
        """Declare a worker dead permanently."""
        mine = self.workers[worker]
        if mine.state == "dead":
            return False
        mine.state, mine.dead = "dead", reason
        return True

    def release(self, worker: int, reason: Reason) -> Release:
        """Release the tasks of a dead worker, except locked ones."""
        mine = self.workers[worker]
        if mine.state != "dead":
            return Release(0, 0)
        verdicts = [
            self._lose(self.tasks[n], reason)
            for n, _ in self.held_by(worker)
            if n not in self.locked
        ]
        mine.released = mine.released or not self.held_by(worker)
        return Release(verdicts.count(False), verdicts.count(True))

    def _lose(self, task: Task, reason: Reason) -> bool:
        """End a lost claim according to the reason; return whether the task has ended."""
        row = task.row
        assert row is not None and row.worker is not None
        counts = row.started and reason.counts
        row.losses += reason.suspicious
        poison = row.alone and reason.suspicious and row.losses >= POISON_AFTER_LOSSES
        final = poison or (counts and row.attempt >= task.max_attempts)
        task.end(final=final, worker=row.worker, outcome=Outcome.LOST, reason=reason.value)
        row.due, row.alone = self.now, row.losses >= ALONE_AFTER_LOSSES
        row.attempt -= not counts
        return final

    def rescue(self, worker: int, reason: Reason) -> ReleaseResult | None:
        """Declare the worker dead, release its tasks, and set the reason of unexplained losses."""
        mine = self.workers[worker]
        if mine.pruned:
            return None
        declared = self.declare_dead(worker, reason)
        done = self.release(worker, reason)
        explained = 0
        if not declared and reason is not Reason.UNKNOWN:
            mine.dead = reason if mine.dead is Reason.UNKNOWN else mine.dead
            for task in self.tasks.values():
                lost = {
                    f: r
                    for f, r in task.runs.items()
                    if (r.worker, r.outcome) == (worker, Outcome.LOST)
                }
                unknown = {f: r for f, r in lost.items() if r.reason == Reason.UNKNOWN}
                task.runs |= {f: r._replace(reason=reason.value) for f, r in unknown.items()}
                explained += len(unknown)
        return ReleaseResult(done.released, done.failed, explained, already_dead=not declared)

    def sweep(self, judges: bool) -> None:
        """Declare expired workers dead if the sweep may judge; release the tasks of dead ones."""
        for name, worker in self.workers.items():
            if judges and worker.expired:
                self.declare_dead(name, Reason.UNKNOWN)
            if worker.dead and not worker.released:
                self.release(name, worker.dead)

    def prune(self) -> None:
        """Remove the rows of released workers."""
        for worker in self.workers.values():
            worker.pruned = worker.released

    # -- figures and tables --
    def figures(self, queue: str) -> dict[str, int]:
        """Count the ready, scheduled and running tasks of a queue."""
        statuses = [
            t.visible_status for t in self.tasks.values() if t.queue == queue and t.row is not None
        ]
        names = {
            "ready": Status.PENDING,
            "scheduled": Status.SCHEDULED,
            "running": Status.PROCESSING,
        }
        return {name: statuses.count(status) for name, status in names.items()}

    def tables(self) -> Tables:
        """Return the rows of the tables by key, with the columns of `RealQueue.tables`."""
        tasks = self.tasks.items()
        return {
            "tasks": {n: task.table_row for n, task in tasks},
            "queue": {n: task.queue_row for n, task in tasks if task.row is not None},
            "runs": {(n, fence): tuple(run) for n, t in tasks for fence, run in t.runs.items()},
            "workers": {
                n: (w.state, w.drained, w.dead, w.released)
                for n, w in self.workers.items()
                if not w.pruned
            },
        }

    # -- users --
    def create(self, task: Task) -> None:
        """Create a task with a handler."""
        task.row = Row(due=None if task.later else self.now, fence=0)
        self.tasks[self.created] = task
        self.created += 1

    def set_status(self, name: int, wanted: Status) -> None:
        """Change the status. Raises the same errors as the service."""
        task = self._visible(name)
        if not check_change(task.visible_status, wanted):
            return
        if task.held and task.row is not None:
            task.row.cancel = True
            return
        task.reopen()
        if wanted is Status.PENDING:
            task.later = False
        if wanted is Status.PENDING and task.handler is not None:
            task.status, task.row = None, Row(due=self.now, fence=task.fence)
        else:
            task.status, task.row = wanted, None

    def change(self, name: int, column: str, value: Any) -> None:
        """Change a field of a task. Raises the same errors as the service."""
        task = self._visible(name)
        if getattr(task, column) == value:
            return
        if task.held:
            raise HeldByWorkerError
        setattr(task, column, value)
        if task.row is not None and task.handler is None:
            task.status, task.row = Status.PENDING, None
        elif task.status is Status.PENDING and task.handler is not None:
            task.status, task.row = (
                None,
                Row(due=None if task.later else self.now, fence=task.fence),
            )

    def delete(self, name: int) -> None:
        """Delete a task, and cancel it if it is open. Raises NotFoundError."""
        task = self._visible(name)
        task.deleted = True
        if task.held and task.row is not None:
            task.row.cancel = task.row.hidden = True
        elif task.visible_status in OPEN:
            task.status, task.row = Status.CANCELLED, None
        else:
            task.runs = {
                f: run._replace(hidden=True) if run.final else run for f, run in task.runs.items()
            }

    def erase(self, name: int) -> None:
        """Delete a task permanently, even while it runs."""
        del self.tasks[name]

    def pass_time(self) -> None:
        """Make all scheduled tasks due, except locked ones."""
        for name, task in self.tasks.items():
            task.later = False
            if task.row is not None and task.row.due is None and name not in self.locked:
                task.row.due = self.now

    def _visible(self, name: int) -> Task:
        task = self.tasks[name]
        if task.deleted:
            raise NotFoundError("task", name)
        return task
