"""What a person's change does to a task and to its row in the queue: decided here, without I/O."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum, auto
from typing import Any

from task_service.domain.errors import HeldByWorkerError, InvalidFieldError
from task_service.domain.fields import check_due, check_length
from task_service.domain.statuses import OPEN, Status, check_change
from task_service.queue.entries import QueueRow
from task_service.store.tasks import TaskRow

FIXED_WHILE_HELD = frozenset(
    {"handler", "queue", "payload", "priority", "run_at", "max_attempts", "timeout_seconds"}
)
"""How a worker runs a task; while one holds it, these cannot change."""
OF_THE_QUEUE = FIXED_WHILE_HELD - {"payload"}


class QueueAction(Enum):
    """What becomes of the task's row in the queue."""

    LEAVE = auto()
    ENQUEUE = auto()
    UPDATE = auto()
    RESTART = auto()  # due anew, with all its attempts
    WITHDRAW = auto()
    CANCEL = auto()  # a worker holds it: ask that worker


@dataclass(frozen=True, slots=True)
class OpenTask:
    """A locked task: as people see it, the status that a person set, and its locked row in the
    queue.
    """

    row: TaskRow
    own_status: Status | None
    entry: QueueRow | None

    @property
    def held(self) -> bool:
        """Whether a worker holds it."""
        return self.entry is not None and self.entry.state == "running"

    @property
    def ended_by_run(self) -> bool:
        """Whether a final run decides its status."""
        return self.entry is None and self.own_status is None


@dataclass(frozen=True, slots=True)
class Decision:
    """Columns of `tasks` to write, what to do with the queue, and whether the final run no longer
    decides.
    """

    columns: dict[str, Any] = field(default_factory=dict)
    queue: QueueAction = QueueAction.LEAVE
    reopens: bool = False

    @property
    def is_nothing(self) -> bool:
        """Whether there is nothing to do."""
        return not self.columns and self.queue is QueueAction.LEAVE


def decide_change(
    task: OpenTask, given: Mapping[str, Any], wanted: Status | None, now: datetime
) -> Decision:
    """Decide a change of fields (columns of `tasks`) and of the status (None: leave it).

    Raises InvalidFieldError (what is set anew: a due date that is past, a text that is too long),
    HeldByWorkerError, TransitionError.
    """
    changed = {name: value for name, value in given.items() if _differs(task.row, name, value)}
    for name, value in changed.items():
        try:
            check_length(name, value)
            if name == "due_date" and value:
                check_due(value, now)
        except ValueError as error:
            raise InvalidFieldError(name, str(error)) from None
    moves = wanted is not None and check_change(task.row.status, wanted)
    if task.held:
        if changed.keys() & FIXED_WHILE_HELD:
            raise HeldByWorkerError
        return Decision(changed, _cancel(task) if moves else QueueAction.LEAVE)
    if not moves:
        return _adjust(task, changed)
    if wanted is Status.PENDING:
        return _open_again(task, changed, asks_time="run_at" in given)
    action = QueueAction.WITHDRAW if task.entry else QueueAction.LEAVE
    return Decision(changed | {"status": wanted}, action, reopens=task.ended_by_run)


def decide_removal(task: OpenTask, now: datetime) -> Decision:
    """Decide a soft delete: what is open is cancelled, and all is hidden."""
    hidden = {"deleted_at": now}
    if task.held:
        return Decision(hidden, _cancel(task))
    if task.row.status not in OPEN:
        return Decision(hidden)
    return Decision(
        hidden | {"status": Status.CANCELLED},
        QueueAction.WITHDRAW if task.entry else QueueAction.LEAVE,
    )


def _cancel(task: OpenTask) -> QueueAction:
    return QueueAction.LEAVE if task.row.cancel_requested_at else QueueAction.CANCEL


def _open_again(task: OpenTask, changed: dict[str, Any], *, asks_time: bool) -> Decision:
    """To `pending`: due now, unless the change names a time."""
    columns = changed if asks_time else changed | {"run_at": None}
    if columns.get("handler", task.row.handler) is None:
        action = QueueAction.WITHDRAW if task.entry else QueueAction.LEAVE
        return Decision(columns | {"status": Status.PENDING}, action, reopens=task.ended_by_run)
    action = QueueAction.RESTART if task.entry else QueueAction.ENQUEUE
    return Decision(columns | {"status": None}, action, reopens=task.ended_by_run)


def _adjust(task: OpenTask, changed: dict[str, Any]) -> Decision:
    """The status stays; but a waiting task may pass from a person to a worker or back."""
    handler = changed.get("handler", task.row.handler)
    if task.entry and handler is None:
        return Decision(changed | {"status": Status.PENDING}, QueueAction.WITHDRAW)
    if task.entry and changed.keys() & OF_THE_QUEUE:
        return Decision(changed, QueueAction.UPDATE)
    if task.own_status is Status.PENDING and handler is not None:
        return Decision(changed | {"status": None}, QueueAction.ENQUEUE)
    return Decision(changed)


def _differs(row: TaskRow, name: str, value: Any) -> bool:
    """JSON is compared as text: to Python 0, 0.0 and False are equal."""
    if name == "payload":
        present = json.loads(row.payload) if row.payload else None
        return json.dumps(value, sort_keys=True) != json.dumps(present, sort_keys=True)
    return bool(value != getattr(row, name))
