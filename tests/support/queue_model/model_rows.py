"""Rows of the model: tasks, their rows in the queue, runs and workers."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from task_service.domain.outcomes import STATUS_OF_OUTCOME, Outcome, Reason
from task_service.domain.statuses import Status


@dataclass
class Row:
    """A task's row in the queue, without a worker while it waits."""

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
        """Value of the column `state`."""
        return "ready" if self.worker is None else "running"


class Run(NamedTuple):
    """Row of an ended attempt."""

    worker: int
    attempt: int
    outcome: str
    reason: str | None
    final: bool
    hidden: bool


@dataclass
class Task:
    """A task. `status` is set by a user; `later`: the task itself, not its row, is scheduled."""

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
        """True if a worker holds a claim on the task."""
        return self.row is not None and self.row.worker is not None

    @property
    def is_due(self) -> bool:
        """True if the task waits for a worker and is due."""
        return self.row is not None and not self.held and self.row.due is not None

    @property
    def fence(self) -> int:
        """Highest fence so far."""
        return self.row.fence if self.row else max(self.runs, default=0)

    @property
    def visible_status(self) -> Status:
        """Status that users see."""
        if self.row is not None:
            waiting = Status.SCHEDULED if self.row.due is None else Status.PENDING
            return Status.PROCESSING if self.held else waiting
        if self.status is Status.PENDING and self.later:
            return Status.SCHEDULED
        if self.status is not None:
            return self.status
        [final] = [run for run in self.runs.values() if run.final]
        return Status(STATUS_OF_OUTCOME[Outcome(final.outcome)])

    @property
    def table_row(self) -> tuple[Any, ...]:
        """Columns of the table `tasks`."""
        return (
            self.visible_status,
            self.status,
            self.deleted,
            self.queue,
            self.priority,
            self.max_attempts,
            self.handler,
        )

    @property
    def queue_row(self) -> tuple[Any, ...]:
        """Columns of the table `queue`."""
        row = self.row
        assert row is not None
        return (
            self.queue,
            self.priority,
            self.max_attempts,
            row.due is not None,
            row.state,
            row.fence,
            row.attempt,
            row.losses,
            row.alone,
            row.started,
            row.worker,
            row.extended,
            row.cancel,
            row.hidden,
        )

    def end(self, *, final: bool, worker: int, outcome: Outcome, reason: str | None = None) -> Row:
        """Record the run of the current claim; a final one removes the row from the queue."""
        row = self.row
        assert row is not None
        self.runs[row.fence] = Run(worker, row.attempt, outcome.value, reason, final, row.hidden)
        if final:
            self.row = None
        row.worker, row.started, row.extended = None, False, False
        return row

    def reopen(self) -> None:
        """Make every run non-final."""
        self.runs = {fence: run._replace(final=False) for fence, run in self.runs.items()}


@dataclass
class Worker:
    """A worker process; its row is `pruned` in the end."""

    slot: int
    queues: Sequence[str]
    state: str = "active"
    drained: Reason | None = None
    dead: Reason | None = None
    released: bool = False
    expired: bool = False
    pruned: bool = False
