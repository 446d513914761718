"""Invalid CSV files: errors name the line and the column, and nothing is imported partially."""

import csv
import io
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import httpx
import pytest
from fastapi import FastAPI

from task_service.settings import Settings
from tests.support.csv_files import FUTURE, import_errors
from tests.support.database_rows import count_rows
from tests.support.problems import check_problem
from tests.support.service_settings import settings_for
from tests.support.task_api import IMPORT, import_csv, upload_csv

HEADERS: list[tuple[str | bytes, str | None, str]] = [
    ("", None, "the file is empty; the first line must contain the column names"),
    ("\n\n", None, "the file is empty; the first line must contain the column names"),
    (
        "title,colour\nx,red\n",
        "colour",
        "unknown column; known: title, description, status",
    ),
    ("description\nx\n", "title", "the column is missing"),
    ("title,priority,Title\nx,low,y\n", "title", "the column is repeated"),
    ("title,\nx,\n", "", "unknown column"),
    ('"title\nx\n', None, "the first line must contain the column names: invalid quoting"),
    (
        b"\xff\xfet\x00i\x00t\x00l\x00e\x00\n\x00",
        None,
        "the first line must contain the column names: is not UTF-8",
    ),
    ("ti\x00tle\nx\n", "title", "the column is missing"),
]


ROWS: list[tuple[str | bytes, str | None, str]] = [
    ("bad", None, "the row has 1 cells, but the header has 2"),
    ("bad,x,y", None, "the row has 3 cells, but the header has 2"),
    (",x", "title", "must have 1 to 200 characters"),
    ("   ,x", "title", "must have 1 to 200 characters"),
    ("x" * 201 + ",x", "title", "must have 1 to 200 characters"),
    ("x," + "y" * 2001, "description", "must have 0 to 2000 characters"),
    ("x,a\x00b", "description", "must not contain a NUL character"),
    (b"x,a\xffb", "description", "is not UTF-8"),
    (b"\xc3\x28,b", "title", "is not UTF-8"),
    ('x,"a"b', "description", "invalid quoting"),
    ('"x"y,z', "title", "invalid quoting"),
    ("x," + "y" * 1_100_000, None, "the row is longer than 1048576 bytes"),
    ("," * 999_999, None, "the row has 1000000 cells, but the header has 2"),
    ("," * 2_000_000, None, "the row is longer than 1048576 bytes"),
]


CELLS: list[tuple[str, str, str]] = [
    ("status", "finished", "unknown status 'finished'"),
    ("priority", "huge", "unknown priority 'huge'"),
    ("due_date", "2020-01-01T00:00:00Z", "must be in the future"),
    ("due_date", "2027-02-30", "Input should be a valid datetime"),
    ("tags", ";".join(f"tag {n}" for n in range(11)), "a task has at most 10 tags"),
    ("tags", "x" * 51, "a tag has at most 50 characters"),
    ("handler", "two words", "String should match pattern"),
    ("payload", "{", "must be JSON"),
    ("payload", '"' + "x" * 270_000 + '"', "must be at most 262144 bytes of JSON"),
    ("payload", "[" * 200 + "]" * 200, "must not be nested more than 100 levels deep"),
    ("payload", "[" * 100_000, "is nested too deeply"),
    ("payload", "9" * 5000, "must be JSON"),
    ("queue", "ä", "String should match pattern"),
    ("run_at", "soon", "Input should be a valid datetime"),
    ("max_attempts", "0", "greater than or equal to 1"),
    ("max_attempts", "many", "valid integer"),
    ("timeout_seconds", "1.5", "valid integer"),
    ("created_at", "once", "must be a time"),
]


def csv_line(*cells: str) -> str:
    text = io.StringIO()
    csv.writer(text).writerow(cells)
    return text.getvalue()


@pytest.mark.parametrize(("content", "column", "message"), HEADERS)
@pytest.mark.parametrize("mode", ["all-or-nothing", "skip-invalid"])
async def test_invalid_header_is_rejected_in_both_modes(
    client: httpx.AsyncClient,
    content: str | bytes,
    column: str | None,
    message: str,
    mode: str,
) -> None:
    problem = check_problem(
        await upload_csv(client, content, params={"mode": mode}), 422, "invalid_file"
    )
    assert (problem["errors"][0]["line"], problem["errors"][0]["column"]) == (1, column)
    assert problem["errors"][0]["message"].startswith(message)


@pytest.mark.parametrize(("row", "column", "message"), ROWS)
async def test_invalid_row_rejects_the_file_or_is_skipped(
    client: httpx.AsyncClient,
    connection: asyncpg.Connection,
    row: str | bytes,
    column: str | None,
    message: str,
) -> None:
    wrong = row.encode() if isinstance(row, str) else row
    content = b'title,description\nfirst,"two\nlines"\n' + wrong + b"\nlast,\n"
    [(line, actual_column, actual_message)] = await import_errors(client, content)
    assert (line, actual_column) == (4, column)
    assert actual_message.startswith(message)
    assert await count_rows(connection) == 0
    report = await import_csv(client, content)
    assert (report.rows, report.created, report.skipped, report.error_count) == (3, 2, 1, 1)
    assert (report.errors[0].line, report.errors[0].column) == (4, column)
    assert [r[0] for r in await connection.fetch("SELECT title FROM tasks ORDER BY number")] == [
        "first",
        "last",
    ]


@pytest.mark.parametrize(("column", "cell", "message"), CELLS)
async def test_invalid_cell_is_named(
    client: httpx.AsyncClient,
    connection: asyncpg.Connection,
    column: str,
    cell: str,
    message: str,
) -> None:
    due = [] if column == "due_date" else ["due_date"]
    header = csv_line("title", column, *due)
    content = header + csv_line("x", cell, *(FUTURE.isoformat() for _ in due))
    [(line, actual_column, actual_message)] = await import_errors(client, content)
    assert (line, actual_column) == (2, column)
    assert message in actual_message
    assert await count_rows(connection) == 0


async def test_header_with_a_million_columns_is_rejected(client: httpx.AsyncClient) -> None:
    assert len(await import_errors(client, "title" + ",x" * 400_000 + "\n")) <= 101
    [error] = await import_errors(client, "title" + ",x" * 1_000_000 + "\n")
    assert error == (
        1,
        None,
        "the first line must contain the column names: the row is longer than 1048576 bytes",
    )


async def test_unclosed_quote_is_reported_with_the_last_skipped_line(
    client: httpx.AsyncClient,
) -> None:
    content = 'title\nfirst\n"open\n' + "x\n" * 100
    assert await import_errors(client, content) == [
        (3, "title", "invalid quoting; reading continues after line 103")
    ]


async def test_invalid_row_in_a_large_file_is_named_in_both_modes(
    client: httpx.AsyncClient, connection: asyncpg.Connection
) -> None:
    rows = [f"task {n},low" for n in range(1, 100_001)]
    rows[73_210] = "task 73211,lowest"
    content = "title,priority\n" + "\n".join(rows) + "\n"
    message = "unknown priority 'lowest': use low, medium, high, urgent"
    assert await import_errors(client, content) == [(73_212, "priority", message)]
    assert await count_rows(connection) == 0
    report = await import_csv(client, content)
    assert (report.rows, report.created, report.skipped) == (100_000, 99_999, 1)
    assert [(e.line, e.column, e.message) for e in report.errors] == [(73_212, "priority", message)]
    assert await count_rows(connection) == 99_999


async def test_first_thousand_errors_are_listed_and_all_are_counted(
    client: httpx.AsyncClient, connection: asyncpg.Connection
) -> None:
    content = "title,priority\n" + ",huge\n" * 1500 + "good,low\n"
    problem = check_problem(await upload_csv(client, content), 422, "invalid_file")
    assert (len(problem["errors"]), problem["error_count"]) == (1000, 3000)
    report = await import_csv(client, content)
    assert (report.rows, report.created, report.skipped) == (1501, 1, 1500)
    assert (len(report.errors), report.error_count) == (1000, 3000)


async def test_upload_without_a_file_is_rejected(client: httpx.AsyncClient) -> None:
    check_problem(
        await client.post(IMPORT, files={"other": ("x.csv", b"title\n")}), 422, "invalid_field"
    )
    check_problem(
        await client.post(IMPORT, content=b"title\nx\n", headers={"Content-Type": "text/csv"}),
        415,
        "unsupported_media_type",
    )
    broken = {"Content-Type": "multipart/form-data"}
    check_problem(
        await client.post(IMPORT, content=b"title\nx\n", headers=broken), 400, "bad_request"
    )
    check_problem(
        await upload_csv(client, "title\n", params={"mode": "some"}), 422, "invalid_field"
    )


async def test_client_that_disconnects_during_the_upload_imports_nothing(
    app: FastAPI, connection: asyncpg.Connection
) -> None:
    body = (
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="t.csv"\r\n\r\ntitle\r\n'
        + b"row\r\n" * 1000
    )
    parts: list[dict[str, Any]] = [
        {"type": "http.request", "body": body, "more_body": True},
        {"type": "http.disconnect"},
    ]
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return parts.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"content-type", b"multipart/form-data; boundary=x"), (b"host", b"service")]
    scope = {
        "type": "http", "method": "POST", "path": IMPORT, "raw_path": IMPORT.encode(), "query_string": b"",
        "headers": headers, "scheme": "http", "server": ("service", 80), "client": ("127.0.0.1", 1),
        "http_version": "1.1", "root_path": "", "asgi": {"version": "3.0"},
    }  # fmt: skip
    await app(scope, receive, send)
    assert sent[0]["status"] == 400
    assert (await count_rows(connection), await count_rows(connection, "imports")) == (0, 0)


class TestLimits:
    """The size limit of uploads."""

    @pytest.fixture
    def settings(self, database: str) -> Settings:
        """Settings with small limits."""
        return settings_for(database, max_body_bytes=2000, max_upload_bytes=20_000)

    async def test_upload_has_its_own_larger_size_limit(self, client: httpx.AsyncClient) -> None:
        assert (await upload_csv(client, "title\n" + "x\n" * 5_000)).status_code == 201
        check_problem(await upload_csv(client, "title\n" + "x\n" * 12_000), 413, "body_too_large")

        async def unannounced() -> AsyncIterator[bytes]:
            yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="t"\r\n\r\ntitle\r\n'
            for _ in range(30):
                yield b"x\n" * 500

        headers = {"Content-Type": "multipart/form-data; boundary=x"}
        check_problem(
            await client.post(IMPORT, content=unannounced(), headers=headers),
            413,
            "body_too_large",
        )
