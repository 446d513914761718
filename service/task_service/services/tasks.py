"""Create, change and remove tasks, in the caller's transaction (`Context.write`)."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from task_service.domain.errors import InvalidFieldError, NotFoundError
from task_service.domain.fields import check_due
from task_service.domain.ids import new_id
from task_service.domain.permissions import Permission
from task_service.domain.principals import Principal
from task_service.domain.statuses import Status
from task_service.queue import dependencies, entries
from task_service.queue.entries import Entry
from task_service.schemas.tasks import NewTask, TaskChange
from task_service.services.context import Context, MovedOnError
from task_service.services.decisions import (
    Decision,
    OpenTask,
    QueueAction,
    decide_change,
    decide_removal,
)
from task_service.services.etags import Guard
from task_service.services.task_rows import entry_of, needs_of, new_row, shown_status
from task_service.store import tasks as store
from task_service.store.conversations import insert_conversations
from task_service.store.database import raw
from task_service.store.history import DELETED, note_change
from task_service.store.inserts import insert_row
from task_service.store.tasks import TaskRow
from task_service.store.unique import KeyClaim, claim_keys
from task_service.telemetry.helpers import current_trace_context
from task_service.telemetry.metrics import count_created

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Change:
    """Who changes a task, what they have seen of it, and why."""

    caller: Principal
    guard: Guard = field(default_factory=Guard)
    reason: str | None = None
    pending_means: frozenset[Status] = frozenset()
    """The statuses that `pending` stands for in the caller's words: a task that has one of them keeps it."""


class Created(NamedTuple):
    """A task that was asked for: made now (`is_new`), or the one that holds its unique key."""

    task: TaskRow
    is_new: bool


async def create_task(
    context: Context, connection: AsyncConnection, new: NewTask, caller: Principal
) -> Created:
    """Create a task with its conversations; with a handler and status pending it enters the queue."""
    task_id, now = new_id(), context.clock()
    if new.due_date is not None:
        _require_future(new.due_date, now)
    driver = await raw(connection)
    if new.unique_key is not None:
        held = await claim_keys(driver, [KeyClaim(new.unique_key, task_id, new.unique_seconds)])
        if held:
            return await _present(connection, held[new.unique_key])
    row = new_row(task_id, new, now, context.settings.default_max_attempts, caller)
    await insert_row(driver, row, shown_status(new, now))
    await insert_conversations(connection, task_id, [{"body": c.body} for c in new.conversations])
    if entry := entry_of(row, current_trace_context()):
        await entries.enqueue(driver, [entry], context.wakeups)
        if missing := await dependencies.block(driver, needs_of(task_id, new)):
            raise InvalidFieldError("needs", f"there is no task {min(missing)}")
    task = await _require(connection, task_id)
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
    context: Context, connection: AsyncConnection, task_id: UUID, wanted: TaskChange, change: Change
) -> TaskRow:
    """Change fields and status. Raises NotFoundError, ForbiddenError, StaleVersionError, see `decide_change`."""
    status = wanted.status if "status" in wanted.model_fields_set else None
    return await _change(context, connection, task_id, change, wanted.columns(), status)


async def set_status(
    context: Context, connection: AsyncConnection, task_id: UUID, status: Status, change: Change
) -> TaskRow:
    """Cancel or retry. A worker that holds the task is asked to cancel it: the answer then still says `processing`."""
    return await _change(context, connection, task_id, change, {}, status)


async def remove_task(
    context: Context,
    connection: AsyncConnection,
    task_id: UUID,
    change: Change,
    *,
    hard: bool = False,
) -> None:
    """Delete: softly (cancelled and hidden; a worker that holds it is asked to cancel) or for good.

    Raises NotFoundError, ForbiddenError, StaleVersionError. A worker that holds a task that goes for good has lost its
    claim.
    """
    if hard:
        change.caller.require(Permission.ERASE_TASKS)
    task = await _open(connection, task_id, change, deleted_too=hard)
    if hard:
        await entries.remove(await raw(connection), task_id)
        await store.erase_task(connection, task_id)
        await dependencies.note_end(await raw(connection), task_id)
        await context.cache.forget(connection, task_id, task.row.stamp + 1)
        await context.cache.forget_daily_log(connection)
    else:
        await _carry_out(context, connection, task, decide_removal(task, context.clock()))
        await _hide(connection, task)
    reason = change.reason or ("hard delete" if hard else None)
    await note_change(
        connection, task_id, (task.row.status, DELETED), change.caller.name, reason=reason
    )
    log.info("task_deleted", task_id=str(task_id), hard=hard)


async def _change(
    context: Context,
    connection: AsyncConnection,
    task_id: UUID,
    change: Change,
    columns: dict[str, Any],
    status: Status | None,
) -> TaskRow:
    task = await _open(connection, task_id, change)
    if status is Status.PENDING and task.row.status in change.pending_means:
        status = None
    decision = decide_change(task, columns, status, context.clock())
    if decision.is_nothing:
        return task.row
    await _carry_out(context, connection, task, decision)
    after = await _require(connection, task_id)
    cancels = decision.queue is QueueAction.CANCEL
    fields = {*decision.columns} | ({"cancel_requested_at"} if cancels else set())
    reason = change.reason or ("cancellation requested" if cancels else None)
    statuses = (task.row.status, after.status)
    await note_change(
        connection, task_id, statuses, change.caller.name, reason=reason, fields=fields
    )
    log.info(
        "task_changed",
        task_id=str(task_id),
        previous=task.row.status,
        status=after.status,
        fields=sorted(fields),
    )
    return after


async def _open(
    connection: AsyncConnection, task_id: UUID, change: Change, *, deleted_too: bool = False
) -> OpenTask:
    """Lock the row in the queue, then the task, and read it; check that the caller may change what they have seen.

    Raises NotFoundError, ForbiddenError, StaleVersionError; MovedOnError when the task entered the queue in between
    (its row there is not locked).
    """
    entry = await entries.lock(await raw(connection), task_id)
    locked = await store.lock_task(connection, task_id)
    if locked is None or (locked.deleted_at and not deleted_too):
        raise NotFoundError("task", task_id)
    if locked.queued and entry is None:
        raise MovedOnError
    row = await store.read_any_task(connection, task_id)
    if row is None:  # we hold its lock
        raise AssertionError(task_id)
    change.caller.require_change(row.created_by, row.assigned_to)
    change.guard.check(row)
    return OpenTask(row, locked.own_status, entry)


async def _carry_out(
    context: Context, connection: AsyncConnection, task: OpenTask, decision: Decision
) -> None:
    """Write the queue first, then the task."""
    queue, task_id = await raw(connection), task.row.id
    match decision.queue:
        case QueueAction.CANCEL:
            await entries.request_cancel(queue, task_id)
        case QueueAction.WITHDRAW:
            await entries.withdraw(queue, task_id)
        case QueueAction.ENQUEUE:
            await entries.enqueue(queue, [_entry(task, decision)], context.wakeups)
            await dependencies.keep_awaited(queue, task_id)
        case QueueAction.UPDATE | QueueAction.RESTART:
            anew = decision.queue is QueueAction.RESTART
            await entries.update(queue, _entry(task, decision), context.wakeups, anew=anew)
        case QueueAction.LEAVE:
            pass
    if decision.reopens:
        await store.reopen_runs(connection, task_id)
    if decision.columns:
        stamp = await store.update_task(connection, task_id, decision.columns)
        await context.cache.forget(connection, task_id, stamp)
    if "status" in decision.columns:
        await dependencies.note_end(queue, task_id)


async def _hide(connection: AsyncConnection, task: OpenTask) -> None:
    """Statistics leave a deleted task out, also where a run ends it, or will."""
    if task.held:
        await entries.hide(await raw(connection), task.row.id)
    elif task.ended_by_run:
        await store.hide_runs(connection, task.row.id)


def _entry(task: OpenTask, decision: Decision) -> Entry:
    """The queue's row of the changed task; a waiting one keeps its time unless the change names one."""
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


async def _present(connection: AsyncConnection, task_id: UUID) -> Created:
    """The task that holds a key; MovedOnError when it has been deleted since the key was looked at."""
    task = await store.read_task(connection, task_id)
    if task is None:
        raise MovedOnError
    return Created(task, is_new=False)


async def _require(connection: AsyncConnection, task_id: UUID) -> TaskRow:
    task = await store.read_task(connection, task_id)
    if task is None:
        raise NotFoundError("task", task_id)
    return task


def _require_future(due: datetime, now: datetime) -> None:
    try:
        check_due(due, now)
    except ValueError as error:
        raise InvalidFieldError("due_date", str(error)) from None
