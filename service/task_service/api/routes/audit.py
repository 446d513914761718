"""`/api/v1/audit-log`: the history of all tasks."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Response
from pydantic import BaseModel, Field

from task_service.api.answers import page
from task_service.api.auth.access import AuthorizedRoute, allow
from task_service.api.dependencies import Transactions
from task_service.api.http.problems import documented
from task_service.domain.permissions import Permission
from task_service.schemas.responses import Page, PageQuery
from task_service.schemas.types import Moment, Words
from task_service.store.audit import AuditFilter, AuditRow, list_audit

router = APIRouter(route_class=AuthorizedRoute, tags=["audit log"])
MAY_AUDIT = Depends(allow(Permission.READ_AUDIT_LOG))


class AuditQuery(PageQuery):
    """Filters of the audit log. An entry must match all of them."""

    task_id: UUID | None = None
    modified_by: Words | None = Field(default=None, description="A caller's name or a worker's id.")
    since: Moment | None = Field(default=None, alias="from", description="At this time or later.")
    until: Moment | None = Field(default=None, alias="to", description="Before this time.")


class AuditEntry(BaseModel):
    """A change by a caller of the API, or the end of a worker's attempt."""

    task_id: UUID
    previous_status: str | None = Field(description="Null if the task was created.")
    new_status: str = Field(description="A status, or `deleted`.")
    modified_by: str | None = Field(description="The caller's name or the worker's id.")
    timestamp: datetime
    reason: str | None
    fields: list[str] = Field(description="Names of the changed fields.")


@router.get(
    "/api/v1/audit-log",
    response_model=Page[AuditEntry],
    responses=documented(),
    dependencies=[MAY_AUDIT],
)
async def read_audit_log(
    transactions: Transactions, query: Annotated[AuditQuery, Query()]
) -> Response:
    """Return one page of the history of all tasks, including deleted ones, newest first."""
    where = AuditFilter(query.task_id, query.modified_by, query.since, query.until)
    async with transactions.read() as connection:
        rows, cursor = await list_audit(connection, where, query.limit, query.cursor)
    return page(map(_show, rows), cursor)


def _show(row: AuditRow) -> dict[str, object]:
    return {name: getattr(row, name) for name in AuditEntry.model_fields}
