"""`/api/v1/tasks:import` and `/api/v1/tasks:export`: import and export tasks as CSV."""

from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from task_service.api.answers import answer
from task_service.api.auth.access import MAY_READ, AuthorizedRoute, Importer
from task_service.api.dependencies import Transactions
from task_service.api.http.idempotency import Idempotent
from task_service.api.http.problems import documented
from task_service.api.http.uploads import FORM, uploaded_file
from task_service.schemas.responses import TaskConditions
from task_service.services.csv.exporter import export_csv
from task_service.services.csv.importer import Mode, import_csv

router = APIRouter(route_class=AuthorizedRoute, prefix="/api/v1/tasks", tags=["tasks"])


class RowProblem(BaseModel):
    """An error in a row."""

    line: int = Field(description="Line of the file where the row starts; the header is line 1.")
    column: str | None
    message: str


class ImportReport(BaseModel):
    """Result of an import."""

    rows: int
    created: int
    skipped: int = Field(description="Invalid rows; only with mode=skip-invalid.")
    error_count: int
    errors: list[RowProblem] = Field(description="The first 1,000 errors.")
    digest: str = Field(description="Digest that identifies the file and the mode.")
    repeated: bool = Field(
        description="The file was imported before; this is the report of that import."
    )
    present: int = Field(
        description="Rows that created no task, because an existing task holds their `unique_key`."
    )
    present_lines: list[int] = Field(description="Lines where these rows start; the first 1,000.")


ModeQuery = Annotated[
    Mode,
    Query(description="Effect of an invalid row: nothing is imported, or the row is skipped."),
]
REPEATED: dict[int | str, dict[str, Any]] = {
    200: {"model": ImportReport, "description": "The file was imported before"}
}
EXPORT: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/csv": {"schema": {"type": "string"}}}}
}


@router.post(
    ":import",
    status_code=201,
    response_model=ImportReport,
    responses=REPEATED | documented(400, 413, 415),
    openapi_extra=FORM,
)
async def import_tasks(
    request: Request,
    caller: Importer,
    idempotent: Idempotent,
    mode: ModeQuery = "all-or-nothing",
) -> Response:
    """Import tasks from a CSV file with a header row.

    The same file in the same mode is imported only once. A file that cannot be imported gets a 422
    response with the code `invalid_file`; its `errors` name line and column.
    """
    async with uploaded_file(request) as upload:
        return await idempotent.write(
            lambda t: import_csv(t, upload, mode, caller),
            lambda report: answer(report, 200 if report.repeated else 201),
            body_digest=upload.digest,
        )


@router.get(
    ":export",
    response_class=StreamingResponse,
    responses=EXPORT | documented(),
    dependencies=[MAY_READ],
)
async def export_tasks(
    transactions: Transactions, query: Annotated[TaskConditions, Query()]
) -> StreamingResponse:
    """Export all matching tasks as CSV, oldest first. The file can be imported again."""
    pieces = export_csv(transactions, query.conditions())
    first = await anext(pieces)  # Errors must occur before the response starts.

    async def rest() -> AsyncIterator[bytes]:
        yield first
        async for piece in pieces:
            yield piece

    return StreamingResponse(
        rest(),
        media_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": 'attachment; filename="tasks.csv"'},
    )
