"""Create, change and delete tasks, each inside the caller's transaction."""

from collections.abc import Collection
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

import structlog

from task_service.domain.errors import InvalidFieldError, NotFoundError
from task_service.domain.fields import check_due
from task_service.domain.ids import new_id
from task_service.domain.permissions import Permission
from task_service.domain.principals import Principal
from task_service.domain.statuses import Status
from task_service.queue import dependencies, entries
from task_service.queue.entries import Entry
from task_service.schemas.tasks import NewTask, TaskChange
from task_service.services.decisions import (
    Decision,
    OpenTask,
    QueueAction,
    decide_change,
    decide_removal,
)
from task_service.services.etags import UNCONDITIONAL, Guard
from task_service.services.task_rows import entry_of, needs_of, new_row, shown_status
from task_service.services.transactions import Transaction, TransactionConflictError
from task_service.store import tasks as store
from task_service.store.conversations import insert_conversations
from task_service.store.history import DELETED, note_change
from task_service.store.inserts import insert_row
from task_service.store.tasks import TaskRow
from task_service.store.unique import KeyClaim, claim_keys
from task_service.telemetry.helpers import current_trace_context
from task_service.telemetry.metrics import count_created

log = structlog.get_logger(__name__)


class Created(NamedTuple):
    """The task for a create request: a new one (`is_new`), or the one that holds the unique key."""

    task: TaskRow
    is_new: bool


async def create_task(transaction: Transaction, new: NewTask, caller: Principal) -> Created:
    """Create a task with its conversations; enqueue it when it is pending and has a handler."""
    task_id, now = new_id(), transaction.clock()
    if new.due_date is not None:
        _require_future(new.due_date, now)
    driver = transaction.driver
    if new.unique_key is not None:
        held = await claim_keys(driver, [KeyClaim(new.unique_key, task_id, new.unique_seconds)])
        if held:
            return await _existing(transaction, held[new.unique_key])
    row = new_row(task_id, new, now, transaction.settings.default_max_attempts, caller)
    await insert_row(driver, row, shown_status(new, now))
    await insert_conversations(
        transaction.sql, task_id, [{"body": c.body} for c in new.conversations]
    )
    if entry := entry_of(row, current_trace_context()):
        await entries.enqueue(driver, [entry], transaction.wakeups)
        if missing := await dependencies.add_needs(driver, needs_of(task_id, new)):
            raise InvalidFieldError("needs", f"there is no task {min(missing)}")
    task = await _require(transaction, task_id)
    count_created(new.queue, new.handler)
    log.info(
        "task_created",
        task_id=str(task.id),
        status=task.status,
        queue=task.queue,
        handler=task.handler,
    )
    return Created(task, is_new=True)


async def change_task(
    transaction: Transaction,
    task_id: UUID,
    wanted: TaskChange,
    caller: Principal,
    guard: Guard = UNCONDITIONAL,
    *,
    shown_as_pending: Collection[Status] = (),
) -> TaskRow:
    """Change fields and status.

    Setting `pending` does not change a task whose status is in `shown_as_pending`: the caller's API
    shows these statuses as pending. Raises NotFoundError, ForbiddenError, StaleVersionError, and
    the errors of `decide_change`.
    """
    task = await _open(transaction, task_id, caller, guard)
    status = wanted.status if "status" in wanted.model_fields_set else None
    if status is Status.PENDING and task.row.status in shown_as_pending:
        status = None
    decision = decide_change(task, wanted.columns(), status, transaction.clock())
    return await _apply(transaction, task, decision, caller, wanted.reason)


async def set_status(
    transaction: Transaction,
    task_id: UUID,
    status: Status,
    caller: Principal,
    guard: Guard = UNCONDITIONAL,
    *,
    reason: str | None = None,
) -> TaskRow:
    """Cancel or retry a task.

    When a worker holds the task, ask that worker to cancel it: the returned task is still
    `processing`.
    """
    task = await _open(transaction, task_id, caller, guard)
    decision = decide_change(task, {}, status, transaction.clock())
    return await _apply(transaction, task, decision, caller, reason)


async def remove_task(
    transaction: Transaction,
    task_id: UUID,
    caller: Principal,
    guard: Guard = UNCONDITIONAL,
    *,
    hard: bool = False,
) -> None:
    """Delete a task: cancel and hide it, or with `hard` erase it.

    A worker that holds the task is asked to cancel it; after a hard delete it has lost its claim.
    Raises NotFoundError, ForbiddenError, StaleVersionError.
    """
    if hard:
        caller.require(Permission.ERASE_TASKS)
    task = await _open(transaction, task_id, caller, guard, include_deleted=hard)
    if hard:
        await entries.remove(transaction.driver, task_id)
        await store.erase_task(transaction.sql, task_id)
        await dependencies.record_end(transaction.driver, task_id)
        await transaction.cache.forget(transaction.sql, task_id, task.row.stamp + 1)
        await transaction.cache.forget_daily_log(transaction.sql)
    else:
        await _carry_out(transaction, task, decide_removal(task, transaction.clock()))
        await _hide(transaction, task)
    statuses = (task.row.status, DELETED)
    reason = "hard delete" if hard else None
    await note_change(transaction.sql, task_id, statuses, caller.name, reason=reason)
    log.info("task_deleted", task_id=str(task_id), hard=hard)


async def _apply(
    transaction: Transaction,
    task: OpenTask,
    decision: Decision,
    caller: Principal,
    reason: str | None,
) -> TaskRow:
    """Carry out a decision and record it in the history."""
    if decision.is_nothing:
        return task.row
    await _carry_out(transaction, task, decision)
    after = await _require(transaction, task.row.id)
    cancels = decision.queue is QueueAction.CANCEL
    fields = {*decision.columns} | ({"cancel_requested_at"} if cancels else set())
    await note_change(
        transaction.sql,
        task.row.id,
        (task.row.status, after.status),
        caller.name,
        reason=reason or ("cancellation requested" if cancels else None),
        fields=fields,
    )
    log.info(
        "task_changed",
        task_id=str(task.row.id),
        previous=task.row.status,
        status=after.status,
        fields=sorted(fields),
    )
    return after


async def _open(
    transaction: Transaction,
    task_id: UUID,
    caller: Principal,
    guard: Guard,
    *,
    include_deleted: bool = False,
) -> OpenTask:
    """Lock the row in the queue, then the task; read it; check the caller's permission and
    `If-Match`.

    Raises NotFoundError, ForbiddenError, StaleVersionError; TransactionConflictError when the task
    entered the queue between the two locks, because its row there is not locked.
    """
    entry = await entries.lock(transaction.driver, task_id)
    locked = await store.lock_task(transaction.sql, task_id)
    if locked is None or (locked.deleted_at and not include_deleted):
        raise NotFoundError("task", task_id)
    if locked.queued and entry is None:
        raise TransactionConflictError
    row = await store.read_any_task(transaction.sql, task_id)
    if row is None:  # this transaction holds its lock
        raise AssertionError(task_id)
    caller.require_change(row.created_by, row.assigned_to)
    guard.check(row)
    return OpenTask(row, locked.own_status, entry)


async def _carry_out(transaction: Transaction, task: OpenTask, decision: Decision) -> None:
    """Write the queue first, then the task."""
    task_id = task.row.id
    await _change_queue(transaction, task, decision)
    if decision.reopens:
        await store.reopen_runs(transaction.sql, task_id)
    if decision.columns:
        stamp = await store.update_task(transaction.sql, task_id, decision.columns)
        await transaction.cache.forget(transaction.sql, task_id, stamp)
    if "status" in decision.columns:
        await dependencies.record_end(transaction.driver, task_id)


async def _change_queue(transaction: Transaction, task: OpenTask, decision: Decision) -> None:
    driver, task_id = transaction.driver, task.row.id
    match decision.queue:
        case QueueAction.CANCEL:
            await entries.request_cancel(driver, task_id)
        case QueueAction.WITHDRAW:
            await entries.withdraw(driver, task_id)
        case QueueAction.ENQUEUE:
            await entries.enqueue(driver, [_entry(task, decision)], transaction.wakeups)
            await dependencies.mark_awaited(driver, task_id)
        case QueueAction.UPDATE | QueueAction.RESTART:
            restarts = decision.queue is QueueAction.RESTART
            entry = _entry(task, decision)
            await entries.update(driver, entry, transaction.wakeups, reset=restarts)
        case QueueAction.LEAVE:
            pass


async def _hide(transaction: Transaction, task: OpenTask) -> None:
    """Exclude a deleted task from statistics, even if a run has ended it or will end it."""
    if task.held:
        await entries.hide(transaction.driver, task.row.id)
    elif task.ended_by_run:
        await store.hide_runs(transaction.sql, task.row.id)


def _entry(task: OpenTask, decision: Decision) -> Entry:
    """Return the queue entry of the changed task; a waiting task keeps its time unless the change
    sets one.
    """
    row, new = task.row, decision.columns
    return Entry(
        task_id=row.id,
        queue=new.get("queue", row.queue),
        priority=new.get("priority", row.priority),
        run_at=new.get("run_at", row.run_at),
        max_attempts=new.get("max_attempts", row.max_attempts),
        timeout_seconds=new.get("timeout_seconds", row.timeout_seconds),
        handler=str(new.get("handler", row.handler)),
        fence=row.fence,
        limit_key=row.limit_key,
        trace_context=current_trace_context(),
    )


async def _existing(transaction: Transaction, task_id: UUID) -> Created:
    """Read the task that holds a key; TransactionConflictError when it was deleted after the key
    was read.
    """
    task = await store.read_task(transaction.sql, task_id)
    if task is None:
        raise TransactionConflictError
    return Created(task, is_new=False)


async def _require(transaction: Transaction, task_id: UUID) -> TaskRow:
    task = await store.read_task(transaction.sql, task_id)
    if task is None:
        raise NotFoundError("task", task_id)
    return task


def _require_future(due: datetime, now: datetime) -> None:
    try:
        check_due(due, now)
    except ValueError as error:
        raise InvalidFieldError("due_date", str(error)) from None
