"""Service D's paths: integer ids, `active` for every open status, and the daily log by date.

Errors have D's own format. Writing always requires a token, even if AUTH_MODE is open. Tasks are
manual unless they name a handler.
"""

from collections.abc import Mapping
from dataclasses import asdict
from datetime import date
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Path, Query, Request, Response
from sqlalchemy.ext.asyncio import AsyncConnection

from task_service.api import answers
from task_service.api.answers import answer, to_json
from task_service.api.auth.access import allow
from task_service.api.compat.common import NumberOrId, Route, make_router, stream_array
from task_service.api.compat.d_errors import documented_d
from task_service.api.compat.d_schemas import (
    AuditLineD,
    AuditQueryD,
    DeletedD,
    EntryD,
    ImportedD,
    ListQueryD,
    NewTaskD,
    TaskChangeD,
    TaskD,
    TaskPageD,
    show_change,
    show_entry,
    show_task,
)
from task_service.api.compat.offset_lists import page_answer
from task_service.api.dependencies import Transactions
from task_service.api.http.idempotency import Idempotent
from task_service.api.http.uploads import FORM, uploaded_file
from task_service.api.routes import auth
from task_service.api.routes.audit import MAY_AUDIT
from task_service.domain.permissions import Permission
from task_service.domain.principals import Principal
from task_service.domain.statuses import OPEN
from task_service.schemas.responses import Page, present
from task_service.services import tasks as task_service
from task_service.services.cached_reads import read_day
from task_service.services.csv.importer import import_csv
from task_service.services.daily_log import find_entry
from task_service.services.legacy.numeric_ids import find_task
from task_service.services.legacy.unpaged_lists import all_entries
from task_service.services.transactions import TransactionManager
from task_service.store import daily_log, tasks
from task_service.store.audit import AuditFilter, list_audit
from task_service.store.tasks import TaskRow

CACHED_ENTRIES = 5_000
CreatorD = Annotated[Principal, Depends(allow(Permission.CREATE_TASKS, always=True))]
ChangerD = Annotated[Principal, Depends(allow(Permission.CHANGE_OWN_TASKS, always=True))]
ImporterD = Annotated[Principal, Depends(allow(Permission.IMPORT_TASKS, always=True))]


def task_answer(t: TaskRow, status: int, headers: Mapping[str, str]) -> Response:
    """Build the response for one task."""
    return answer(show_task(t), status, headers)


async def create_task(caller: CreatorD, idempotent: Idempotent, new: NewTaskD) -> Response:
    """Create a task."""
    path = idempotent.request.url.path.rstrip("/")
    return await idempotent.write(
        lambda t: task_service.create_task(t, new, caller),
        lambda made: answers.created(made, task_answer, f"{path}/{made.task.number}"),
    )


async def update_task(
    transactions: Transactions, caller: ChangerD, task_id: NumberOrId, change: TaskChangeD
) -> Response:
    """Change the given fields of a task. Omitted fields stay unchanged."""
    key = await find_task(transactions, task_id)
    task = await transactions.write(
        lambda t: task_service.change_task(t, key, change, caller, shown_as_pending=OPEN)
    )
    return answer(show_task(task))


async def delete_task(
    transactions: Transactions, caller: ChangerD, task_id: NumberOrId
) -> Response:
    """Delete a task: cancel it if it is open, and hide it."""
    key = await find_task(transactions, task_id)
    await transactions.write(lambda t: task_service.remove_task(t, key, caller))
    return answer({"message": "Task soft deleted successfully"})


async def list_tasks(transactions: Transactions, query: Annotated[ListQueryD, Query()]) -> Response:
    """Return one page of tasks, or with `date` all entries of that day's log."""
    if query.date is not None:
        return await _list_day(transactions, query.date)
    return await page_answer(transactions, query, show_task)


async def _list_day(transactions: TransactionManager, day: date) -> Response:
    """Return a day's log from the cache; stream more than 5,000 entries from the database."""

    async def make(connection: AsyncConnection) -> bytes:
        rows, more = await daily_log.list_entries(connection, day, CACHED_ENTRIES)
        return b"" if more else to_json([show_entry(row) for row in rows])

    cached = await read_day(transactions, f"d:{day}", make)
    if cached:
        return Response(cached, media_type="application/json")
    return await stream_array(all_entries(transactions, day), show_entry)


async def read_entry(
    transactions: Transactions,
    task_id: Annotated[str, Path(description="The entry's number or UUID.", examples=["1"])],
) -> Response:
    """Return one entry of the daily log.

    The number in the path is that of an entry (service D's `log_id`), as in lists by date, and not
    that of a task.
    """
    return answer(show_entry(await find_entry(transactions, task_id)))


async def upload_csv(request: Request, caller: ImporterD, idempotent: Idempotent) -> Response:
    """Import tasks from a CSV file with a header row. If a row is invalid, nothing is imported."""
    async with uploaded_file(request) as upload:
        return await idempotent.write(
            lambda t: import_csv(t, upload, "all-or-nothing", caller),
            lambda r: answer(
                asdict(r) | {"message": f"{r.created} tasks were imported"},
                200 if r.repeated else 201,
            ),
            body_digest=upload.digest,
        )


async def read_audit_log(
    transactions: Transactions, query: Annotated[AuditQueryD, Query()]
) -> Response:
    """Return one page of the audit log, newest first."""
    async with transactions.read() as connection:
        rows, cursor = await list_audit(connection, AuditFilter(), query.limit, query.cursor)
        numbers = await tasks.read_numbers(connection, {row.task_id for row in rows})
    return answers.page((show_change(row, numbers.get(row.task_id)) for row in rows), cursor)


async def log_in_by_json(
    transactions: Transactions,
    security: auth.Security,
    form: Annotated[auth.PasswordForm, Body()],
) -> Response:
    """Log in with a user name and a password; the tokens are those of `/api/v1/auth/token`."""
    return await auth.log_in(transactions, security, form)


CHANGES = documented_d(404, 409, 413, 415)
LOGIN = documented_d(413, 415)
ALWAYS_AT_ROOT = ("/task", "/upload-csv")
IMPORTED: dict[int | str, dict[str, Any]] = {
    200: {"model": ImportedD, "description": "The file was imported before"}
}
ROUTES = (
    Route(
        "POST", "/login", log_in_by_json, auth.Tokens, responses=LOGIN, dependencies=auth.ATTEMPT
    ),
    Route("POST", "/token", auth.log_in, auth.Tokens, responses=LOGIN, dependencies=auth.ATTEMPT),
    Route("POST", "/task", create_task, TaskD, 201, responses=present(TaskD) | CHANGES),
    Route("PUT", "/task/{task_id}", update_task, TaskD, responses=CHANGES),
    Route("DELETE", "/task/{task_id}", delete_task, DeletedD, responses=documented_d(404, 409)),
    Route("GET", "/task/{task_id}", read_entry, EntryD, responses=documented_d(404)),
    Route("GET", "/tasks", list_tasks, TaskPageD | list[EntryD], responses=documented_d()),
    Route(
        "POST",
        "/upload-csv",
        upload_csv,
        ImportedD,
        201,
        responses=IMPORTED | documented_d(413, 415),
        extra=FORM,
    ),
    Route(
        "GET",
        "/audit-log",
        read_audit_log,
        Page[AuditLineD],
        responses=documented_d(),
        dependencies=[MAY_AUDIT],
    ),
)


def _is_at_root(path: str, *, root: bool) -> bool:
    return root or f"{path}/".startswith(tuple(f"{p}/" for p in ALWAYS_AT_ROOT))


def routers(*, root: bool) -> list[APIRouter]:
    """Return service D's routers, under `/compat/d` and at the root.

    The router at the root has only the paths that collide with no other service, unless `root` is
    set.
    """
    at_root = [r for r in ROUTES if _is_at_root(r.path, root=root)]
    return [make_router("D", "", at_root), make_router("D", "/compat/d", ROUTES)]


def path_prefixes(*, root: bool) -> set[str]:
    """Return the prefixes of the paths on which errors have D's format, each with a final slash."""
    firsts = {f"/{r.path.split('/')[1]}" for r in ROUTES}
    return {f"{p}/" for p in firsts if _is_at_root(p, root=root)} | {"/compat/d/"}
