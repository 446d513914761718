"""Create, change and remove tasks: each function is the whole of one transaction's work."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from task_service.api.context import ANONYMOUS, Context, MovedOnError
from task_service.api.etags import Guard
from task_service.api.metrics import count_created
from task_service.api.models import NewTask, TaskChange
from task_service.api.services.decisions import Decision, OpenTask, QueueAction, decide_change, decide_removal
from task_service.domain.errors import InvalidFieldError, NotFoundError
from task_service.domain.fields import check_due
from task_service.domain.ids import new_id
from task_service.domain.statuses import Status
from task_service.queue import entries
from task_service.queue.entries import Entry
from task_service.store import tasks as store
from task_service.store.conversations import insert_conversations
from task_service.store.database import raw
from task_service.store.history import DELETED, note_change
from task_service.store.tasks import TaskRow

log = structlog.get_logger(__name__)

CREATED_COLUMNS = {
    "title", "description", "assigned_to", "due_date", "tags", "handler", "payload", "queue", "run_at",
    "timeout_seconds",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Change:
    """Who changes a task, and what they have seen of it."""

    guard: Guard = field(default_factory=Guard)
    actor: str = ANONYMOUS
    reason: str | None = None


async def create_task(context: Context, new: NewTask, actor: str = ANONYMOUS) -> TaskRow:
    """Create a task with its conversations; with a handler and status pending it enters the queue."""
    if new.due_date is not None:
        _require_future(new.due_date, context.clock())
    task = await context.write(functools.partial(_create, context, new, actor))
    count_created(new.queue, new.handler)
    log.info("task_created", task_id=str(task.id), status=task.status, queue=task.queue, handler=task.handler)
    return task


async def _create(context: Context, new: NewTask, actor: str, connection: AsyncConnection) -> TaskRow:
    task_id = new_id()
    handler = new.handler if new.status is Status.PENDING else None
    values = {name: getattr(new, name) for name in CREATED_COLUMNS} | {
        "id": task_id,
        "status": new.status if handler is None else None,
        "priority": new.priority.rank,
        "max_attempts": new.max_attempts or context.settings.default_max_attempts,
    }
    later = new.status is Status.PENDING and new.run_at is not None and new.run_at > context.clock()
    await store.insert_task(connection, values, Status.SCHEDULED if later else new.status, actor)
    await insert_conversations(connection, task_id, [{"body": c.body} for c in new.conversations])
    if handler is not None:
        rank, attempts = values["priority"], values["max_attempts"]
        entry = Entry(task_id, new.queue, rank, new.run_at, attempts, new.timeout_seconds, handler)
        await entries.enqueue(await raw(connection), [entry], context.wakeups)
    return await _require(connection, task_id)


async def change_task(context: Context, task_id: UUID, wanted: TaskChange, change: Change = Change()) -> TaskRow:
    """Change fields and status. Raises NotFoundError, StaleVersionError and what `decide_change` raises."""
    status = wanted.status if "status" in wanted.model_fields_set else None

    def decide(task: OpenTask) -> Decision:
        return decide_change(task, wanted.columns(), status, context.clock())

    return await context.write(functools.partial(_change, context, task_id, change, decide))


async def set_status(context: Context, task_id: UUID, status: Status, change: Change = Change()) -> TaskRow:
    """Cancel or retry. A worker that holds the task is asked to cancel it: the answer then still says `processing`."""

    def decide(task: OpenTask) -> Decision:
        return decide_change(task, {}, status, context.clock())

    return await context.write(functools.partial(_change, context, task_id, change, decide))


async def remove_task(context: Context, task_id: UUID, change: Change = Change(), *, hard: bool = False) -> None:
    """Delete: softly (cancelled and hidden; a worker that holds it is asked to cancel) or for good.

    Raises NotFoundError, StaleVersionError. A worker that holds a task that goes for good has lost its claim.
    """
    remove = functools.partial(_erase, task_id, change) if hard else functools.partial(_hide, context, task_id, change)
    await context.write(remove)
    log.info("task_deleted", task_id=str(task_id), hard=hard)


async def _change(
    context: Context, task_id: UUID, change: Change, decide: Callable[[OpenTask], Decision], connection: AsyncConnection
) -> TaskRow:
    task = await _open(connection, task_id)
    change.guard.check(task.row)
    decision = decide(task)
    if decision.is_nothing:
        return task.row
    await _carry_out(context, connection, task, decision)
    after = await _require(connection, task_id)
    cancels = decision.queue is QueueAction.CANCEL
    fields = {*decision.columns} | ({"cancel_requested_at"} if cancels else set())
    reason = change.reason or ("cancellation requested" if cancels else None)
    statuses = (task.row.status, after.status)
    await note_change(connection, task_id, statuses, change.actor, reason=reason, fields=fields)
    log.info("task_changed", task_id=str(task_id), previous=task.row.status, status=after.status, fields=sorted(fields))
    return after


async def _hide(context: Context, task_id: UUID, change: Change, connection: AsyncConnection) -> None:
    task = await _open(connection, task_id)
    change.guard.check(task.row)
    await _carry_out(context, connection, task, decide_removal(task, context.clock()))
    await note_change(connection, task_id, (task.row.status, DELETED), change.actor, reason=change.reason)


async def _erase(task_id: UUID, change: Change, connection: AsyncConnection) -> None:
    task = await _open(connection, task_id, deleted_too=True)
    change.guard.check(task.row)
    await entries.remove(await raw(connection), task_id)
    await store.erase_task(connection, task_id)
    reason = change.reason or "hard delete"
    await note_change(connection, task_id, (task.row.status, DELETED), change.actor, reason=reason)


async def _open(connection: AsyncConnection, task_id: UUID, *, deleted_too: bool = False) -> OpenTask:
    """Lock the row in the queue, then the task, and read it.

    Raises NotFoundError; MovedOnError when the task entered the queue in between (its row there is not locked).
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
    return OpenTask(row, locked.own_status, entry)


async def _carry_out(context: Context, connection: AsyncConnection, task: OpenTask, decision: Decision) -> None:
    """Write the queue first, then the task."""
    queue, task_id = await raw(connection), task.row.id
    match decision.queue:
        case QueueAction.CANCEL:
            await entries.request_cancel(queue, task_id)
        case QueueAction.WITHDRAW:
            await entries.withdraw(queue, task_id)
        case QueueAction.ENQUEUE:
            await entries.enqueue(queue, [_entry(task, decision)], context.wakeups)
        case QueueAction.UPDATE:
            await entries.update(queue, _entry(task, decision), context.wakeups)
        case QueueAction.LEAVE:
            pass
    if decision.reopens:
        await store.reopen_runs(connection, task_id)
    if decision.columns:
        await store.update_task(connection, task_id, decision.columns)


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
    )


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
