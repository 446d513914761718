"""Tasks, claims and workers as the design wants them, without any database.

Tasks and workers are numbered in the order in which they came. Time is counted in steps: `due` is the step in which a
task's time came, None while it is still to come. Every method is one step and returns what the real one must answer.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from task_service.domain.errors import HeldByWorkerError, NotFoundError
from task_service.domain.outcomes import (
    ALONE_AFTER_LOSSES,
    POISON_AFTER_LOSSES,
    STATUS_OF_OUTCOME,
    Outcome,
    Reason,
)
from task_service.domain.statuses import OPEN, Status, check_change
from task_service.queue.figures import ReleaseResult
from task_service.queue.workers import Release

Attempt = tuple[int, int]
"""A task and the fence under which it was claimed."""
Tables = dict[str, dict[Any, tuple[Any, ...]]]
"""Rows of each table by their keys."""


@dataclass
class Row:
    """A task's row in the queue; its worker is None while it waits."""

    due: int | None
    fence: int
    attempt: int = 0
    losses: int = 0
    alone: bool = False
    started: bool = False
    worker: int | None = None
    extended: bool = False
    cancel: bool = False
    hidden: bool = False

    @property
    def state(self) -> str:
        """As the table has it."""
        return "ready" if self.worker is None else "running"


class Run(NamedTuple):
    """An attempt that ended."""

    worker: int
    attempt: int
    outcome: str
    reason: str | None
    final: bool
    hidden: bool


@dataclass
class Task:
    """A task. `status` is what a person set; `later`: its own time, not its row's, is still to come."""

    queue: str
    priority: int
    max_attempts: int
    later: bool
    handler: str | None = "noop"
    status: Status | None = None
    deleted: bool = False
    row: Row | None = None
    runs: dict[int, Run] = field(default_factory=dict)

    @property
    def held(self) -> bool:
        """Whether a worker holds it."""
        return self.row is not None and self.row.worker is not None

    @property
    def fence(self) -> int:
        """The highest one so far."""
        return self.row.fence if self.row else max(self.runs, default=0)

    @property
    def shown(self) -> Status:
        """The status that people see."""
        if self.row is not None:
            waiting = Status.SCHEDULED if self.row.due is None else Status.PENDING
            return Status.PROCESSING if self.held else waiting
        if self.status is Status.PENDING and self.later:
            return Status.SCHEDULED
        if self.status is not None:
            return self.status
        [final] = [run for run in self.runs.values() if run.final]
        return Status(STATUS_OF_OUTCOME[Outcome(final.outcome)])

    def end(self, *, final: bool, worker: int, outcome: Outcome, reason: str | None = None) -> Row:
        """Record the run of the present claim; a final one takes the row out of the queue."""
        row = self.row
        assert row is not None
        self.runs[row.fence] = Run(worker, row.attempt, outcome.value, reason, final, row.hidden)
        if final:
            self.row = None
        row.worker, row.started, row.extended = None, False, False
        return row

    def reopen(self) -> None:
        """A final run decides no more."""
        self.runs = {fence: run._replace(final=False) for fence, run in self.runs.items()}


@dataclass
class Worker:
    """A worker process. `forgotten`: its row was pruned."""

    slot: int
    queues: Sequence[str]
    state: str = "active"
    drained: Reason | None = None
    dead: Reason | None = None
    released: bool = False
    expired: bool = False
    forgotten: bool = False


class QueueModel:
    """All tasks and workers. `locked`: tasks whose rows somebody else's transaction has locked."""

    def __init__(self) -> None:
        self.now = 0
        self.created = 0
        self.tasks: dict[int, Task] = {}
        self.workers: dict[int, Worker] = {}
        self.paused: set[str] = set()
        self.locked: set[int] = set()

    # -- claims and results --
    def claimable(self, worker: int, *, alone: bool = False) -> list[int]:
        """What a worker may claim, best first."""
        mine = self.workers[worker]
        found = [
            name
            for name, task in self.tasks.items()
            if task.row is not None and not task.held and task.row.due is not None and task.row.alone == alone
            and task.queue in mine.queues and task.queue not in self.paused and name not in self.locked
        ]  # fmt: skip
        return (
            sorted(found, key=lambda name: self.place(worker, name))
            if mine.state == "active"
            else []
        )

    def place(self, worker: int, name: int) -> tuple[int, int, int]:
        """Where a task stands among those that the worker may claim; those of one step stand together."""
        task = self.tasks[name]
        assert task.row is not None and task.row.due is not None
        return (
            0 if task.row.alone else task.priority,
            self.workers[worker].queues.index(task.queue),
            task.row.due,
        )

    def claim(self, worker: int, name: int, *, started: bool) -> Row:
        """Let the worker hold the task, under the next fence."""
        row = self.tasks[name].row
        assert row is not None
        row.worker, row.started = worker, started
        row.fence += 1
        row.attempt += 1
        return row

    def is_ours(self, worker: int, attempt: Attempt) -> bool:
        """Whether the worker holds this claim."""
        row = self.tasks[attempt[0]].row if attempt[0] in self.tasks else None
        return row is not None and row.worker == worker and row.fence == attempt[1]

    def is_nearly_ours(self, worker: int, attempt: Attempt) -> bool:
        """Whether the worker or the fence is the right one."""
        row = self.tasks[attempt[0]].row if attempt[0] in self.tasks else None
        return row is not None and (row.worker == worker or row.fence == attempt[1])

    def held_by(self, worker: int) -> set[Attempt]:
        """The claims that the worker holds."""
        return {
            (n, t.row.fence)
            for n, t in self.tasks.items()
            if t.row is not None and t.row.worker == worker
        }

    def finish(self, worker: int, attempts: Iterable[Attempt], outcome: Outcome) -> set[Attempt]:
        """End those attempts that are the worker's."""
        ours = {attempt for attempt in attempts if self.is_ours(worker, attempt)}
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
        """Let those attempts that are the worker's wait again."""
        ours = {attempt for attempt in attempts if self.is_ours(worker, attempt)}
        for name, _ in ours:
            row = self.tasks[name].end(
                final=False, worker=worker, outcome=outcome, reason=reason and reason.value
            )
            row.due = None if delay else self.now
            row.attempt -= not counts
        return ours

    def extend(self, worker: int, attempt: Attempt) -> bool:
        """Move the deadline of an attempt, if it is the worker's."""
        row = self.tasks[attempt[0]].row if attempt[0] in self.tasks else None
        ours = self.is_ours(worker, attempt)
        if row is not None:
            row.extended = row.extended or ours
        return ours

    def recorded(self, worker: int, attempts: Iterable[Attempt]) -> set[Attempt]:
        """Those attempts that the worker has reported."""
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
        """Enter a worker; give its predecessors."""
        before = {
            n
            for n, w in self.workers.items()
            if w.slot == slot and not w.released and not w.forgotten
        }
        self.workers[len(self.workers)] = Worker(slot, queues)
        return before

    def heartbeat(self, worker: int) -> tuple[bool, Reason | None, set[int]] | None:
        """Renew the lease; tell whether and why it is drained, and which of its tasks to cancel. None: it is dead."""
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
        """Ask a worker to claim no more."""
        mine = self.workers[worker]
        if mine.state == "active":
            mine.state, mine.drained = "draining", reason
        return None if mine.forgotten else mine.state

    def declare_dead(self, worker: int, reason: Reason) -> bool:
        """For good."""
        mine = self.workers[worker]
        if mine.state == "dead":
            return False
        mine.state, mine.dead = "dead", reason
        return True

    def release(self, worker: int, reason: Reason) -> Release:
        """Take its tasks from a dead worker, but for those that somebody has locked."""
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
        """Decide by the reason what becomes of a lost claim; True when the task has ended."""
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
        """Declare dead, release, and say why when nobody knew."""
        mine = self.workers[worker]
        if mine.forgotten:
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
        """Declare dead whose lease is over, if the sweeper may judge, and release what the dead hold."""
        for name, worker in self.workers.items():
            if judges and worker.expired:
                self.declare_dead(name, Reason.UNKNOWN)
            if worker.dead and not worker.released:
                self.release(name, worker.dead)

    def prune(self) -> None:
        """Forget who is dead and released."""
        for worker in self.workers.values():
            worker.forgotten = worker.released

    # -- what it looks like --
    def figures(self, queue: str) -> dict[str, int]:
        """How many of a queue's tasks wait, wait for their time, and run."""
        shown = [t.shown for t in self.tasks.values() if t.queue == queue and t.row is not None]
        names = {
            "ready": Status.PENDING,
            "scheduled": Status.SCHEDULED,
            "running": Status.PROCESSING,
        }
        return {name: shown.count(status) for name, status in names.items()}

    def tables(self) -> Tables:
        """The rows of the tables by their keys, in the columns' order that `Stage.tables` reads."""
        tasks = self.tasks.items()
        rows = {n: (t, t.row) for n, t in tasks if t.row is not None}
        return {
            "tasks": {
                n: (t.shown, t.status, t.deleted, t.queue, t.priority, t.max_attempts, t.handler) for n, t in tasks
            },
            "queue": {
                n: (
                    t.queue, t.priority, t.max_attempts, r.due is not None, r.state, r.fence, r.attempt,
                    r.losses, r.alone, r.started, r.worker, r.extended, r.cancel, r.hidden,
                )
                for n, (t, r) in rows.items()
            },
            "runs": {(n, fence): tuple(run) for n, t in tasks for fence, run in t.runs.items()},
            "workers": {
                n: (w.state, w.drained, w.dead, w.released) for n, w in self.workers.items() if not w.forgotten
            },
        }  # fmt: skip

    # -- people --
    def create(self, task: Task) -> None:
        """Create a task for workers."""
        task.row = Row(due=None if task.later else self.now, fence=0)
        self.tasks[self.created] = task
        self.created += 1

    def set_status(self, name: int, wanted: Status) -> None:
        """Change the status. Raises the product's own errors."""
        task = self._visible(name)
        if not check_change(task.shown, wanted):
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
        """Change how a task is to run. Raises the product's own errors."""
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
        """Hide a task, and cancel it while it is open. Raises NotFoundError."""
        task = self._visible(name)
        task.deleted = True
        if task.held and task.row is not None:
            task.row.cancel = task.row.hidden = True
        elif task.shown in OPEN:
            task.status, task.row = Status.CANCELLED, None
        else:
            task.runs = {
                f: run._replace(hidden=True) if run.final else run for f, run in task.runs.items()
            }

    def erase(self, name: int) -> None:
        """Remove a task for good, whoever holds it."""
        del self.tasks[name]

    def pass_time(self) -> None:
        """Let every later time come, but for the rows that are locked."""
        for name, task in self.tasks.items():
            task.later = False
            if task.row is not None and task.row.due is None and name not in self.locked:
                task.row.due = self.now

    def _visible(self, name: int) -> Task:
        task = self.tasks[name]
        if task.deleted:
            raise NotFoundError("task", name)
        return task
