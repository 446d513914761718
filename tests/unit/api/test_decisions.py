"""Decisions about changes: every status with every requested status, without a database."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from task_service.domain.errors import HeldByWorkerError, InvalidFieldError, TransitionError
from task_service.domain.ids import new_id
from task_service.domain.statuses import ALLOWED, Status
from task_service.queue.entries import QueueRow
from task_service.services.decisions import (
    Decision,
    OpenTask,
    QueueAction,
    decide_change,
    decide_removal,
)
from task_service.store.tasks import TaskRow

NOW = datetime(2030, 1, 1, tzinfo=UTC)
ROW = TaskRow(
    id=new_id(), number=1, title="a", description=None, status=Status.PENDING, priority=2, assigned_to=None,
    due_date=None, tags=[], handler="noop", queue="default", run_at=None, max_attempts=5, timeout_seconds=None,
    limit_key=None, attempt=0, fence=0, outcome=None, error=None, created_by=None, created_at=NOW, updated_at=NOW,
    processed_at=None, processing_instance_id=None, cancel_requested_at=None, conversation_count=0, version=1, stamp=1,
    payload='{"a": 1}',
)  # fmt: skip
ENTRY = QueueRow(
    task_id=ROW.id, queue="default", priority=2, run_at=NOW, state="ready", attempt=0, fence=0, worker_id=None,
    claimed_at=None, cancel_requested_at=None, handler="noop",
)  # fmt: skip


def queued(state: Any = "ready", **fields: Any) -> OpenTask:
    status = Status.PROCESSING if state == "running" else Status.PENDING
    return OpenTask(
        ROW._replace(**({"status": status} | fields)), None, replace(ENTRY, state=state)
    )


def ended(status: Status, **fields: Any) -> OpenTask:
    return OpenTask(ROW._replace(status=status, **fields), None, None)


def manual(status: Status, **fields: Any) -> OpenTask:
    return OpenTask(ROW._replace(status=status, **fields), status, None)


def decide(task: OpenTask, wanted: Status | None = None, **given: Any) -> Decision:
    return decide_change(task, given, wanted, NOW)


@pytest.mark.parametrize("wanted", list(Status))
@pytest.mark.parametrize("current", list(Status))
def test_only_allowed_status_transitions_are_accepted(current: Status, wanted: Status) -> None:
    task = queued("running") if current is Status.PROCESSING else manual(current, handler=None)
    if wanted == current:
        assert decide(task, wanted).is_nothing
    elif wanted in ALLOWED[current]:
        assert not decide(task, wanted).is_nothing
    else:
        with pytest.raises((HeldByWorkerError, TransitionError)):
            decide(task, wanted)


@pytest.mark.parametrize(
    "wanted", [Status.IN_PROGRESS, Status.COMPLETED, Status.FAILED, Status.CANCELLED]
)
def test_manual_status_removes_a_task_from_the_queue(wanted: Status) -> None:
    assert decide(queued(), wanted) == Decision({"status": wanted}, QueueAction.WITHDRAW)


def test_cancel_of_a_claimed_task_is_requested_once() -> None:
    assert decide(queued("running"), Status.CANCELLED) == Decision(queue=QueueAction.CANCEL)
    assert decide(queued("running", cancel_requested_at=NOW), Status.CANCELLED).is_nothing


def test_reopened_task_is_queued_or_becomes_manual() -> None:
    again = {"run_at": None, "status": None}
    assert decide(ended(Status.FAILED), Status.PENDING) == Decision(
        again, QueueAction.ENQUEUE, reopens=True
    )
    assert decide(manual(Status.CANCELLED), Status.PENDING) == Decision(again, QueueAction.ENQUEUE)
    own = {"run_at": None, "status": Status.PENDING}
    assert decide(ended(Status.FAILED, handler=None), Status.PENDING) == Decision(own, reopens=True)
    assert decide(ended(Status.FAILED), Status.PENDING, handler=None).columns == {
        "handler": None,
        **own,
    }


def test_run_at_given_with_pending_is_kept() -> None:
    later = NOW + timedelta(days=1)
    assert decide(ended(Status.FAILED), Status.PENDING, run_at=later).columns == {
        "run_at": later,
        "status": None,
    }


def test_scheduled_task_set_to_pending_becomes_due_at_once() -> None:
    task = queued(status=Status.SCHEDULED, run_at=NOW + timedelta(days=1))
    assert decide(task, Status.PENDING) == Decision(
        {"run_at": None, "status": None}, QueueAction.RESTART
    )


def test_manual_status_overrides_the_final_run() -> None:
    assert decide(ended(Status.FAILED), Status.CANCELLED) == Decision(
        {"status": Status.CANCELLED}, reopens=True
    )


def test_only_different_values_are_written() -> None:
    assert decide(queued(), title="a", payload={"a": 1}, tags=[], handler="noop").is_nothing
    assert decide(queued(), title="b", payload={"a": 1}) == Decision({"title": "b"})
    assert decide(queued(), payload={"a": 2}) == Decision({"payload": {"a": 2}})
    assert decide(queued(), queue="mail") == Decision({"queue": "mail"}, QueueAction.UPDATE)


def test_new_handler_queues_pending_tasks_but_not_tasks_in_progress() -> None:
    waiting = manual(Status.PENDING, handler=None)
    assert decide(waiting, handler="noop") == Decision(
        {"handler": "noop", "status": None}, QueueAction.ENQUEUE
    )
    working = manual(Status.IN_PROGRESS, handler=None)
    assert decide(working, handler="noop") == Decision({"handler": "noop"})
    assert decide(queued(), handler=None) == Decision(
        {"handler": None, "status": Status.PENDING}, QueueAction.WITHDRAW
    )


def test_execution_fields_of_a_claimed_task_cannot_change() -> None:
    for given in (
        {"handler": None},
        {"queue": "b"},
        {"payload": 1},
        {"priority": 0},
        {"run_at": NOW},
        {"max_attempts": 9},
    ):
        with pytest.raises(HeldByWorkerError):
            decide(queued("running"), **given)
    assert decide(queued("running"), title="b", priority=2).columns == {"title": "b"}


def test_due_date_is_checked_only_when_it_changes() -> None:
    past = NOW - timedelta(days=1)
    with pytest.raises(InvalidFieldError):
        decide(queued(), due_date=past)
    assert decide(queued(due_date=past), due_date=past).is_nothing
    assert decide(queued(due_date=past), due_date=None).columns == {"due_date": None}


def test_deletion_cancels_open_tasks() -> None:
    hidden = {"deleted_at": NOW}
    assert decide_removal(queued("running"), NOW) == Decision(hidden, QueueAction.CANCEL)
    assert decide_removal(queued("running", cancel_requested_at=NOW), NOW) == Decision(hidden)
    assert decide_removal(queued(), NOW) == Decision(
        hidden | {"status": Status.CANCELLED}, QueueAction.WITHDRAW
    )
    assert decide_removal(manual(Status.IN_PROGRESS), NOW) == Decision(
        hidden | {"status": Status.CANCELLED}
    )
    assert decide_removal(ended(Status.COMPLETED), NOW) == Decision(hidden)
