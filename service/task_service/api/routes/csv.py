"""`/api/v1/tasks:import` and `/api/v1/tasks:export`: tasks as CSV."""

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
    """What is wrong with a row."""

    line: int = Field(
        description="The line of the file where the row begins; the header is line 1."
    )
    column: str | None
    message: str


class ImportReport(BaseModel):
    """What an import did."""

    rows: int
    created: int
    skipped: int = Field(description="Rows that were wrong; only with mode=skip-invalid.")
    error_count: int
    errors: list[RowProblem] = Field(description="The first thousand.")
    digest: str = Field(description="What the file and mode are known by.")
    repeated: bool = Field(description="The file was imported before: this is the report of then.")
    present: int = Field(
        description="Rows for which a task was there already: it holds their `unique_key`."
    )
    present_lines: list[int] = Field(description="The lines where these begin, the first thousand.")


ModeQuery = Annotated[
    Mode, Query(description="What a row that is wrong does: nothing is imported, or it is skipped.")
]
REPEATED: dict[int | str, dict[str, Any]] = {
    200: {"model": ImportReport, "description": "Imported before"}
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
    """Import tasks from a CSV file with a header row. The same file in the same mode is imported once.

    A file that cannot be imported answers 422 `invalid_file`; its `errors` name line and column.
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
    """All tasks that match, oldest first, as CSV that can be imported again."""
    pieces = export_csv(transactions, query.conditions())
    first = await anext(
        pieces
    )  # what is wrong with the request, or away, is found before the answer begins

    async def rest() -> AsyncIterator[bytes]:
        yield first
        async for piece in pieces:
            yield piece

    return StreamingResponse(
        rest(),
        media_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": 'attachment; filename="tasks.csv"'},
    )
