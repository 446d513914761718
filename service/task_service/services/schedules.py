"""Schedules: create, change and delete them, and run those that are due, inside the caller's
transaction.

Each due time runs once, whatever the number of processes: the tasks and the next time are written
in one transaction that holds the lock of the schedule's row. All times are the database's.
"""

import json
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import structlog
from pydantic import ValidationError
from sqlalchemy.ext.asyncio import AsyncConnection

from task_service.domain.cron import latest_until, next_after
from task_service.domain.errors import ConflictError, InvalidFieldError, NotFoundError
from task_service.domain.permissions import Role
from task_service.domain.principals import Principal
from task_service.schemas.tasks import NewSchedule, NewTask, ScheduleChange, TaskTemplate
from task_service.services.bulk import create_tasks, due_date_problem
from task_service.services.etags import UNCONDITIONAL, Guard
from task_service.services.transactions import Transaction
from task_service.store import schedules as store
from task_service.store.database import is_unavailable
from task_service.store.schedules import ScheduleRow

CATCH_UP_MAX = 100
"""Missed times that `catch_up=all` runs at most: the latest ones."""
MISSED_AFTER = timedelta(minutes=1)
"""`catch_up=none` skips times that are further in the past than this."""
ERROR_MAX = 500
DAILY_LOG = "daily-log"
"""Name of the built-in schedule, which runs the daily loader."""
DAILY_LOG_ACTION = "daily_log"
TIMES = frozenset({"cron", "time_zone", "enabled"})
"""The fields that the next time depends on."""
log = structlog.get_logger(__name__)


def etag_of_schedule(row: ScheduleRow) -> str:
    """Return the schedule's quoted ETag: what users change before the hyphen, what runs change
    after it.
    """
    runs = [t.timestamp() if t else 0 for t in (row.next_run_at, row.last_run_at)]
    return f'"{row.version}.{row.id.hex[:12]}-{runs[0]:.6f}.{runs[1]:.6f}"'


# -- changes by users
# -------------------------------------------------------------------------------------------------
async def create_schedule(
    transaction: Transaction, new: NewSchedule, caller: Principal
) -> ScheduleRow:
    """Create a schedule. Raises ConflictError for a name in use, InvalidFieldError for an invalid
    template.
    """
    now = await store.database_time(transaction.sql)
    created = None
    if new.name != DAILY_LOG:
        values = new.model_dump(include={"name", "cron", "time_zone", "catch_up", "enabled"})
        values |= {"template": _checked(new.template, now), "created_by": caller.name}
        values["next_run_at"] = next_after(new.cron, new.time_zone, now) if new.enabled else None
        created = await store.insert_schedule(transaction.sql, values)
    if created is None:
        raise _name_in_use(new.name)
    log.info(
        "schedule_created",
        schedule=created.name,
        next_run_at=created.next_run_at,
        by=caller.name,
    )
    return created


async def change_schedule(
    transaction: Transaction,
    schedule_id: UUID,
    wanted: ScheduleChange,
    caller: Principal,
    guard: Guard = UNCONDITIONAL,
) -> ScheduleRow:
    """Change a schedule; compute its next time again when the change affects it.

    Raises NotFoundError, StaleVersionError, ConflictError, InvalidFieldError.
    """
    row = await _lock(transaction, schedule_id, guard)
    values = {name: getattr(wanted, name) for name in wanted.model_fields_set}
    if not values:
        return row
    if row.action == DAILY_LOG_ACTION and values.keys() - {"enabled"}:
        raise ConflictError(
            f"The schedule {row.name} follows the service's settings; only `enabled` can be changed."
        )
    now = await store.database_time(transaction.sql)
    if "template" in values:
        values["template"] = _checked(wanted.template, now)
    if values.keys() & TIMES:
        after = {name: values.get(name, getattr(row, name)) for name in TIMES}
        values["next_run_at"] = (
            next_after(after["cron"], after["time_zone"], now) if after["enabled"] else None
        )
    changed = None
    if values.get("name") != DAILY_LOG:
        changed = await store.update_schedule(transaction.sql, schedule_id, values)
    if changed is None:
        raise _name_in_use(values["name"])
    log.info("schedule_changed", schedule=changed.name, fields=sorted(values), by=caller.name)
    return changed


async def remove_schedule(
    transaction: Transaction, schedule_id: UUID, caller: Principal, guard: Guard = UNCONDITIONAL
) -> None:
    """Delete a schedule. Raises NotFoundError, StaleVersionError; ConflictError for the built-in
    one.
    """
    row = await _lock(transaction, schedule_id, guard)
    if row.action == DAILY_LOG_ACTION:
        raise ConflictError(
            f"The schedule {row.name} is built in; it can be disabled but not deleted."
        )
    await store.delete_schedule(transaction.sql, schedule_id)
    log.info("schedule_deleted", schedule=row.name, by=caller.name)


async def read_schedule(connection: AsyncConnection, schedule_id: UUID) -> ScheduleRow:
    """Read one schedule. Raises NotFoundError."""
    row = await store.read_schedule(connection, schedule_id)
    if row is None:
        raise NotFoundError("schedule", schedule_id)
    return row


async def run_now(transaction: Transaction, schedule_id: UUID) -> ScheduleRow:
    """Create the schedule's task now, even if the schedule is disabled; its next time does not
    change.

    Raises NotFoundError; InvalidFieldError for a template that is no longer valid.
    """
    row = await _lock(transaction, schedule_id, UNCONDITIONAL)
    now = await store.database_time(transaction.sql)
    try:
        [task_id] = await _create_tasks(transaction, row, [now])
    except ValueError as error:
        raise InvalidFieldError("template", _message(error)) from None
    outcome = {"last_run_at": now, "last_task_id": task_id, "last_error": None}
    await store.note_run(transaction.sql, row, row.next_run_at, **outcome)
    return await read_schedule(transaction.sql, schedule_id)


async def record_daily_log_run(
    transaction: Transaction, row: ScheduleRow, *, was_due: bool = False
) -> ScheduleRow:
    """Record a run of the built-in schedule; with `was_due` move on to its next time."""
    now = await store.database_time(transaction.sql)
    following = next_time(row, now) if was_due else row.next_run_at
    await store.note_run(transaction.sql, row, following, last_run_at=now, last_error=None)
    return await read_schedule(transaction.sql, row.id)


async def _lock(transaction: Transaction, schedule_id: UUID, guard: Guard) -> ScheduleRow:
    row = await store.read_schedule(transaction.sql, schedule_id, lock=True)
    if row is None:
        raise NotFoundError("schedule", schedule_id)
    guard.compare(etag_of_schedule(row), "schedule")
    return row


def _name_in_use(name: str) -> ConflictError:
    return ConflictError(f"The schedule name {name} is already in use.")


def _checked(template: TaskTemplate, now: datetime) -> dict[str, Any]:
    """Return the template to store, if the task that it creates now is valid. Raises
    InvalidFieldError.
    """
    stored = template.model_dump(mode="json", exclude_unset=True)
    try:
        _task_for(stored, now, now)
    except ValueError as error:
        raise InvalidFieldError("template", _message(error)) from None
    return stored


# -- due schedules
# ----------------------------------------------------------------------------------------------------
async def ensure_daily_log_schedule(transaction: Transaction) -> None:
    """Create the built-in schedule of the daily loader, or update it from the settings; `enabled`
    does not change.
    """
    settings = transaction.settings
    cron, zone = settings.daily_log_cron, settings.daily_log_time_zone
    now = await store.database_time(transaction.sql)
    times = {"cron": cron, "time_zone": zone, "next_run_at": next_after(cron, zone, now)}
    values = {"name": DAILY_LOG, "action": DAILY_LOG_ACTION, "created_by": "system", **times}
    if await store.insert_schedule(transaction.sql, values):
        return
    row = await store.lock_own(transaction.sql, DAILY_LOG_ACTION)
    if row is not None and (row.cron, row.time_zone) != (cron, zone):
        changed = times if row.enabled else {**times, "next_run_at": None}
        await store.update_schedule(transaction.sql, row.id, changed)


async def fire_next(transaction: Transaction) -> bool:
    """Run the schedule that has been due longest; False when none is due that no other process has
    locked.
    """
    row = await store.lock_due(transaction.sql, "task")
    if row is None:
        return False
    now = await store.database_time(transaction.sql)
    try:
        outcome = await _fire(transaction, row, now)
    except Exception as error:
        if is_unavailable(error):
            raise
        # A schedule that cannot run must not delay the others: record the error and go on to its
        # next time.
        is_expected = isinstance(error, ValueError)
        message = _message(error)
        log.warning("schedule_failed", schedule=row.name, error=message, exc_info=not is_expected)
        outcome = {"last_run_at": now, "last_error": message}
    await store.note_run(transaction.sql, row, next_time(row, now), **outcome)
    return True


async def _fire(transaction: Transaction, row: ScheduleRow, now: datetime) -> dict[str, Any]:
    """Create the tasks of all due times in a savepoint; return the columns that record the run."""
    times = due_times(row, now)
    if not times:
        return {}
    async with transaction.sql.begin_nested():
        ids = await _create_tasks(transaction, row, times)
    log.info("schedule_fired", schedule=row.name, tasks=len(ids), due=times[-1].isoformat())
    return {"last_run_at": now, "last_task_id": ids[-1], "last_error": None}


def due_times(row: ScheduleRow, now: datetime) -> list[datetime]:
    """Return the times of a due schedule to run now, oldest first. ValueError when its cron is no
    longer valid.
    """
    if row.next_run_at is None:
        return []
    limit = CATCH_UP_MAX if row.catch_up == "all" else 1
    # A next time that was written by hand may not match the expression; it runs anyway.
    times = latest_until(row.cron, row.time_zone, row.next_run_at, now, limit) or [row.next_run_at]
    return [t for t in times if row.catch_up != "none" or now - t <= MISSED_AFTER]


def next_time(row: ScheduleRow, now: datetime) -> datetime | None:
    """Return the schedule's next time; None when it has none or its cron is no longer valid."""
    try:
        return next_after(row.cron, row.time_zone, now)
    except ValueError:
        return None


async def _create_tasks(
    transaction: Transaction, row: ScheduleRow, times: list[datetime]
) -> list[UUID]:
    template, now = json.loads(row.template or "null"), transaction.clock()
    tasks = [_task_for(template, time, now) for time in times]
    caller = Principal(f"schedule:{row.name}", Role.ADMIN, "system")
    return (await create_tasks(transaction, tasks, caller)).ids


def _task_for(template: dict[str, Any], time: datetime, now: datetime) -> NewTask:
    """Return the task for one time, with the time in its payload. ValueError for an invalid
    template.
    """
    payload = template.get("payload")
    if payload is None or isinstance(payload, dict):
        payload = {**(payload or {}), "scheduled_for": time.isoformat().replace("+00:00", "Z")}
    task = NewTask.model_validate({**template, "payload": payload})
    if problem := due_date_problem(task, now):
        raise ValueError(f"due_date: {problem}")
    return task


def _message(error: Exception) -> str:
    """Return the message for `last_error` and for callers, without the input."""
    if isinstance(error, ValidationError):
        problems = [
            f"{'.'.join(map(str, e['loc']))}: {e['msg'].removeprefix('Value error, ')}"
            for e in error.errors()
        ]
        return "; ".join(problems)[:ERROR_MAX]
    is_expected = isinstance(error, ValueError)
    return (str(error) if is_expected else f"{type(error).__name__}: {error}")[:ERROR_MAX]
