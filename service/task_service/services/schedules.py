"""Schedules: what people write of them, and how one that is due makes its tasks. In the caller's transaction.

Whatever the number of instances, a time is run once: the tasks and the next time are written in one transaction, under
the lock of the schedule's row. All times are the database's.
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
from task_service.services.bulk import enter_tasks, past_due
from task_service.services.context import Context
from task_service.services.etags import Guard
from task_service.settings import Settings
from task_service.store import schedules as store
from task_service.store.database import is_unavailable
from task_service.store.schedules import ScheduleRow

MOST_CAUGHT_UP = 100
"""Of the times that were missed, `all` runs the last so many."""
MISSED_AFTER = timedelta(minutes=1)
"""With `none`, a time that is further past than this is left out."""
ERROR_MAX = 500
DAILY_LOG = "daily-log"
OWN = "daily_log"
TIMES = frozenset({"cron", "time_zone", "enabled"})
log = structlog.get_logger(__name__)


def etag_of_schedule(row: ScheduleRow) -> str:
    """The schedule's ETag, with its quotes: before the hyphen what editors change, after it what runs change."""
    shown = [t.timestamp() if t else 0 for t in (row.next_run_at, row.last_run_at)]
    return f'"{row.version}.{row.id.hex[:12]}-{shown[0]:.6f}.{shown[1]:.6f}"'


# -- what people write ------------------------------------------------------------------------------------------------
async def create_schedule(
    connection: AsyncConnection, new: NewSchedule, caller: Principal
) -> ScheduleRow:
    """Make a schedule. Raises ConflictError for a name that is taken, InvalidFieldError for a template."""
    now = await store.database_time(connection)
    made = None
    if new.name != DAILY_LOG:
        values = new.model_dump(include={"name", "cron", "time_zone", "catch_up", "enabled"})
        values |= {"template": _checked(new.template, now), "created_by": caller.name}
        values["next_run_at"] = next_after(new.cron, new.time_zone, now) if new.enabled else None
        made = await store.insert_schedule(connection, values)
    if made is None:
        raise _taken(new.name)
    log.info("schedule_created", schedule=made.name, next_run_at=made.next_run_at, by=caller.name)
    return made


async def change_schedule(
    connection: AsyncConnection,
    schedule_id: UUID,
    wanted: ScheduleChange,
    caller: Principal,
    guard: Guard,
) -> ScheduleRow:
    """Change a schedule; its next time is found anew when that is about it.

    Raises NotFoundError, StaleVersionError, ConflictError, InvalidFieldError.
    """
    row = await _open(connection, schedule_id, guard)
    given = {name: getattr(wanted, name) for name in wanted.model_fields_set}
    if not given:
        return row
    if row.action == OWN and given.keys() - {"enabled"}:
        raise ConflictError(
            f"The schedule {row.name} follows the service's settings; it can be enabled and disabled."
        )
    now = await store.database_time(connection)
    if "template" in given:
        given["template"] = _checked(wanted.template, now)
    if given.keys() & TIMES:
        after = {name: given.get(name, getattr(row, name)) for name in TIMES}
        given["next_run_at"] = (
            next_after(after["cron"], after["time_zone"], now) if after["enabled"] else None
        )
    changed = (
        await store.update_schedule(connection, schedule_id, given)
        if given.get("name") != DAILY_LOG
        else None
    )
    if changed is None:
        raise _taken(given["name"])
    log.info("schedule_changed", schedule=changed.name, fields=sorted(given), by=caller.name)
    return changed


async def remove_schedule(
    connection: AsyncConnection, schedule_id: UUID, caller: Principal, guard: Guard
) -> None:
    """Remove a schedule for good. Raises NotFoundError, StaleVersionError, ConflictError for the product's own."""
    row = await _open(connection, schedule_id, guard)
    if row.action == OWN:
        raise ConflictError(
            f"The schedule {row.name} is the service's own; it can be disabled, not deleted."
        )
    await store.delete_schedule(connection, schedule_id)
    log.info("schedule_deleted", schedule=row.name, by=caller.name)


async def read_schedule(connection: AsyncConnection, schedule_id: UUID) -> ScheduleRow:
    """One schedule. Raises NotFoundError."""
    row = await store.read_schedule(connection, schedule_id)
    if row is None:
        raise NotFoundError("schedule", schedule_id)
    return row


async def run_now(context: Context, connection: AsyncConnection, schedule_id: UUID) -> ScheduleRow:
    """Make the schedule's task at once, also of one that is disabled; its next time stays.

    Raises NotFoundError, InvalidFieldError for a template that is no longer good.
    """
    row = await _open(connection, schedule_id, Guard())
    now = await store.database_time(connection)
    try:
        [task_id] = await _enter(context, connection, row, [now])
    except ValueError as error:
        raise InvalidFieldError("template", _words(error)) from None
    await store.note_run(
        connection, row, row.next_run_at, last_run_at=now, last_task_id=task_id, last_error=None
    )
    return await read_schedule(connection, schedule_id)


async def note_own_run(
    connection: AsyncConnection, row: ScheduleRow, *, moves_on: bool = False
) -> ScheduleRow:
    """Write that the product's own schedule has run; because it was due (it moves on to its next time) or by hand."""
    now = await store.database_time(connection)
    following = next_time(row, now) if moves_on else row.next_run_at
    await store.note_run(connection, row, following, last_run_at=now, last_error=None)
    return await read_schedule(connection, row.id)


async def _open(connection: AsyncConnection, schedule_id: UUID, guard: Guard) -> ScheduleRow:
    row = await store.read_schedule(connection, schedule_id, lock=True)
    if row is None:
        raise NotFoundError("schedule", schedule_id)
    guard.compare(etag_of_schedule(row), "schedule")
    return row


def _taken(name: str) -> ConflictError:
    return ConflictError(f"There is a schedule {name} already.")


def _checked(template: TaskTemplate, now: datetime) -> dict[str, Any]:
    """The template as it is kept, when the task that it would make now is a good one."""
    kept = template.model_dump(mode="json", exclude_unset=True)
    try:
        _draft(kept, now, now)
    except ValueError as error:
        raise InvalidFieldError("template", _words(error)) from None
    return kept


# -- what is due ------------------------------------------------------------------------------------------------------
async def ensure_own(connection: AsyncConnection, settings: Settings) -> None:
    """Make the schedule of the daily loader, or let it follow the settings. Whether it is enabled, people decide."""
    cron, zone = settings.daily_log_cron, settings.daily_log_time_zone
    now = await store.database_time(connection)
    values = {"cron": cron, "time_zone": zone, "next_run_at": next_after(cron, zone, now)}
    if await store.insert_schedule(
        connection, {"name": DAILY_LOG, "action": OWN, "created_by": "system", **values}
    ):
        return
    row = await store.lock_own(connection, OWN)
    if row is not None and (row.cron, row.time_zone) != (cron, zone):
        await store.update_schedule(
            connection, row.id, values if row.enabled else {**values, "next_run_at": None}
        )


async def fire_next(context: Context, connection: AsyncConnection) -> bool:
    """Run the schedule that has been due for the longest time; False when none is, or others are at them all."""
    row = await store.lock_due(connection, "task")
    if row is None:
        return False
    now = await store.database_time(connection)
    try:
        outcome: dict[str, Any] = {}
        if times := due_times(row, now):
            async with connection.begin_nested():
                ids = await _enter(context, connection, row, times)
            outcome = {"last_run_at": now, "last_task_id": ids[-1], "last_error": None}
            log.info("schedule_fired", schedule=row.name, tasks=len(ids), due=times[-1].isoformat())
    except Exception as error:
        if is_unavailable(error):
            raise
        # One that cannot run must not hold up the others: it says why, and goes on to its next time.
        log.warning(
            "schedule_failed", schedule=row.name, error=_words(error), exc_info=not _is_told(error)
        )
        outcome = {"last_run_at": now, "last_error": _words(error)}
    await store.note_run(connection, row, next_time(row, now), **outcome)
    return True


def due_times(row: ScheduleRow, now: datetime) -> list[datetime]:
    """Which times of a schedule that is due are run now, the oldest first. ValueError: it cannot be read any more."""
    if row.next_run_at is None:
        return []
    most = MOST_CAUGHT_UP if row.catch_up == "all" else 1
    # A next time that was written by hand is no time of the expression: it runs all the same.
    times = latest_until(row.cron, row.time_zone, row.next_run_at, now, most) or [row.next_run_at]
    return [t for t in times if row.catch_up != "none" or now - t <= MISSED_AFTER]


def next_time(row: ScheduleRow, now: datetime) -> datetime | None:
    """The schedule's next time; None when it has none, or can no longer be read."""
    try:
        return next_after(row.cron, row.time_zone, now)
    except ValueError:
        return None


async def _enter(
    context: Context, connection: AsyncConnection, row: ScheduleRow, times: list[datetime]
) -> list[UUID]:
    drafts = [_draft(json.loads(row.template or "null"), time, context.clock()) for time in times]
    caller = Principal(f"schedule:{row.name}", Role.ADMIN, "system")
    return (await enter_tasks(context, connection, drafts, caller)).ids


def _draft(template: dict[str, Any], time: datetime, now: datetime) -> NewTask:
    """The task of one time: its payload says which. ValueError when the template breaks a rule."""
    payload = template.get("payload")
    if payload is None or isinstance(payload, dict):
        payload = {**(payload or {}), "scheduled_for": time.isoformat().replace("+00:00", "Z")}
    draft = NewTask.model_validate({**template, "payload": payload})
    if problem := past_due(draft, now):
        raise ValueError(f"due_date: {problem}")
    return draft


def _is_told(error: Exception) -> bool:
    return isinstance(error, ValueError)


def _words(error: Exception) -> str:
    """The error for `last_error` and for callers, without the input."""
    if isinstance(error, ValidationError):
        found = [
            f"{'.'.join(map(str, e['loc']))}: {e['msg'].removeprefix('Value error, ')}"
            for e in error.errors()
        ]
        return "; ".join(found)[:ERROR_MAX]
    return (str(error) if _is_told(error) else f"{type(error).__name__}: {error}")[:ERROR_MAX]
