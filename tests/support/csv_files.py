"""CSV imports and exports over the API."""

import csv
import io
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

from tests.support.problems import check_problem
from tests.support.task_api import EXPORT, upload_csv

FUTURE = (datetime.now(UTC) + timedelta(days=30)).replace(microsecond=0)


async def import_errors(
    client: httpx.AsyncClient, content: str | bytes
) -> list[tuple[int, str | None, str]]:
    """Return the errors of a file that is imported with `all-or-nothing`."""
    problem = check_problem(await upload_csv(client, content), 422, "invalid_file")
    assert problem["error_count"] >= len(problem["errors"])
    assert f"line {problem['errors'][0]['line']}" in problem["detail"]
    return [(e["line"], e["column"], e["message"]) for e in problem["errors"]]


async def export_csv(
    client: httpx.AsyncClient, **filters: Any
) -> tuple[bytes, list[dict[str, str]]]:
    """Export tasks; return the content and the parsed rows."""
    response = await client.get(EXPORT, params=filters)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "text/csv; charset=utf-8"
    assert response.headers["content-disposition"] == 'attachment; filename="tasks.csv"'
    return response.content, list(
        csv.DictReader(io.StringIO(response.content.decode(), newline=""))
    )
