"""Tasks from CSV and to CSV."""

import asyncio
import csv
import io
import json
from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import httpx
import pytest
from fastapi import FastAPI
from hypothesis import HealthCheck, given
from hypothesis import settings as profile
from hypothesis import strategies as st

from task_service.domain.fields import clean_tags
from task_service.services.csv.format import (
    COLUMNS,
    READ_ONLY,
    guard,
    join_tags,
    split_tags,
    unguard,
)
from task_service.settings import Settings
from tests.support.problems import check_problem
from tests.support.service_settings import settings_for
from tests.support.task_api import EXPORT, IMPORT, TASKS, create_task, import_csv, upload_csv

LATER = (datetime.now(UTC) + timedelta(days=30)).replace(microsecond=0)


async def errors_of(
    client: httpx.AsyncClient, content: str | bytes
) -> list[tuple[int, str | None, str]]:
    """Return the errors of a file that is imported with `all-or-nothing`."""
    problem = check_problem(await upload_csv(client, content), 422, "invalid_file")
    assert problem["error_count"] >= len(problem["errors"])
    assert f"line {problem['errors'][0]['line']}" in problem["detail"]
    return [(e["line"], e["column"], e["message"]) for e in problem["errors"]]


async def count_rows(connection: asyncpg.Connection, table: str = "tasks") -> int:
    return int(await connection.fetchval(f"SELECT count(*) FROM {table}"))


class TestImport:
    """Imports of valid files."""

    async def test_every_column_becomes_a_field_of_the_task(
        self, client: httpx.AsyncClient, connection: asyncpg.Connection
    ) -> None:
        content = (
            "\ufeffTitle,description,Status,priority,Assigned To,due-date,tags,handler,payload,queue,run_at,"
            "max_attempts,timeout_seconds\r\n"
            f'"Ring ""Ada""","two\r\nlines, one cell",,HIGH,ada,{LATER.isoformat()},home; garden|Home,noop,'
            '"{""a"": [1]}",mail,,3,60\r\n'
            "plain,,completed,,,,,,,,,,\r\n"
        )
        report = await import_csv(client, content, "all-or-nothing")
        assert (report.rows, report.created, report.skipped, report.errors) == (2, 2, 0, [])
        one, two = [
            dict(r) for r in await connection.fetch("SELECT * FROM task_view ORDER BY number")
        ]
        expected = {
            "title": 'Ring "Ada"', "description": "two\r\nlines, one cell", "status": "pending", "priority": 1,
            "assigned_to": "ada", "due_date": LATER, "tags": ["home", "garden"], "handler": "noop", "queue": "mail",
            "max_attempts": 3, "timeout_seconds": 60, "created_by": "anonymous",
        }  # fmt: skip
        assert {name: one[name] for name in expected} == expected
        assert json.loads(one["payload"]) == {"a": [1]}
        assert (two["title"], two["status"], two["handler"], two["max_attempts"]) == (
            "plain",
            "completed",
            None,
            5,
        )
        assert (
            await count_rows(connection, "queue"),
            await count_rows(connection, "task_history"),
        ) == (1, 2)

    async def test_semicolons_empty_lines_and_a_missing_last_newline_are_accepted(
        self, client: httpx.AsyncClient, connection: asyncpg.Connection
    ) -> None:
        report = await import_csv(client, 'title;tags\n\n"a";"x;y"\nb;z\n\nc;')
        assert (report.rows, report.created) == (3, 3)
        rows = await connection.fetch("SELECT title, tags FROM tasks ORDER BY number")
        assert [tuple(r) for r in rows] == [("a", ["x", "y"]), ("b", ["z"]), ("c", [])]

    async def test_header_without_rows_imports_nothing(self, client: httpx.AsyncClient) -> None:
        assert (await import_csv(client, "title\n", "all-or-nothing")).rows == 0

    async def test_same_file_is_imported_once_per_mode(
        self, client: httpx.AsyncClient, connection: asyncpg.Connection
    ) -> None:
        content = "title,max_attempts\ngood,1\nbad,0\n"
        first = await upload_csv(client, content, params={"mode": "skip-invalid"})
        again = await upload_csv(client, content, params={"mode": "skip-invalid"})
        assert (first.status_code, again.status_code) == (201, 200)
        assert again.json() == first.json() | {"repeated": True}
        assert await count_rows(connection) == 1
        assert [e[:2] for e in await errors_of(client, content)] == [(3, "max_attempts")]
        assert await count_rows(connection, "imports") == 1

    async def test_one_of_many_concurrent_uploads_imports_the_file(
        self, client: httpx.AsyncClient, connection: asyncpg.Connection
    ) -> None:
        content = "title\n" + "x\n" * 2000
        responses = await asyncio.gather(*(upload_csv(client, content) for _ in range(8)))
        assert sorted(a.status_code for a in responses) == [200] * 7 + [201]
        assert await count_rows(connection) == 2000

    async def test_idempotency_key_applies_to_uploads(
        self, client: httpx.AsyncClient, connection: asyncpg.Connection
    ) -> None:
        key = {"Idempotency-Key": "one"}
        first, again = [await upload_csv(client, "title\nx\n", headers=key) for _ in range(2)]
        assert (first.status_code, again.status_code, again.json()) == (201, 201, first.json())
        check_problem(
            await upload_csv(client, "title\ny\n", headers=key), 422, "idempotency_conflict"
        )
        assert await count_rows(connection) == 1


TITLE = "title,description\n"
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


class TestBadFiles:
    """Errors name the line and the column, and nothing is imported partially."""

    @pytest.mark.parametrize(("content", "column", "message"), HEADERS)
    @pytest.mark.parametrize("mode", ["all-or-nothing", "skip-invalid"])
    async def test_invalid_header_is_rejected_in_both_modes(
        self,
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
        self,
        client: httpx.AsyncClient,
        connection: asyncpg.Connection,
        row: str | bytes,
        column: str | None,
        message: str,
    ) -> None:
        wrong = row.encode() if isinstance(row, str) else row
        content = b'title,description\nfirst,"two\nlines"\n' + wrong + b"\nlast,\n"
        [(line, actual_column, actual_message)] = await errors_of(client, content)
        assert (line, actual_column) == (4, column)
        assert actual_message.startswith(message)
        assert await count_rows(connection) == 0
        report = await import_csv(client, content)
        assert (report.rows, report.created, report.skipped, report.error_count) == (3, 2, 1, 1)
        assert (report.errors[0].line, report.errors[0].column) == (4, column)
        assert [
            r[0] for r in await connection.fetch("SELECT title FROM tasks ORDER BY number")
        ] == ["first", "last"]

    @pytest.mark.parametrize(("column", "cell", "message"), CELLS)
    async def test_invalid_cell_is_named(
        self,
        client: httpx.AsyncClient,
        connection: asyncpg.Connection,
        column: str,
        cell: str,
        message: str,
    ) -> None:
        due = [] if column == "due_date" else ["due_date"]
        header = csv_line("title", column, *due)
        content = header + csv_line("x", cell, *(LATER.isoformat() for _ in due))
        [(line, actual_column, actual_message)] = await errors_of(client, content)
        assert (line, actual_column) == (2, column)
        assert message in actual_message
        assert await count_rows(connection) == 0

    async def test_header_with_a_million_columns_is_rejected(
        self, client: httpx.AsyncClient
    ) -> None:
        assert len(await errors_of(client, "title" + ",x" * 400_000 + "\n")) <= 101
        [error] = await errors_of(client, "title" + ",x" * 1_000_000 + "\n")
        assert error == (
            1,
            None,
            "the first line must contain the column names: the row is longer than 1048576 bytes",
        )

    async def test_unclosed_quote_is_reported_with_the_last_skipped_line(
        self, client: httpx.AsyncClient
    ) -> None:
        content = 'title\nfirst\n"open\n' + "x\n" * 100
        assert await errors_of(client, content) == [
            (3, "title", "invalid quoting; reading continues after line 103")
        ]

    async def test_invalid_row_in_a_large_file_is_named_in_both_modes(
        self, client: httpx.AsyncClient, connection: asyncpg.Connection
    ) -> None:
        rows = [f"task {n},low" for n in range(1, 100_001)]
        rows[73_210] = "task 73211,lowest"
        content = "title,priority\n" + "\n".join(rows) + "\n"
        message = "unknown priority 'lowest': use low, medium, high, urgent"
        assert await errors_of(client, content) == [(73_212, "priority", message)]
        assert await count_rows(connection) == 0
        report = await import_csv(client, content)
        assert (report.rows, report.created, report.skipped) == (100_000, 99_999, 1)
        assert [(e.line, e.column, e.message) for e in report.errors] == [
            (73_212, "priority", message)
        ]
        assert await count_rows(connection) == 99_999

    async def test_first_thousand_errors_are_listed_and_all_are_counted(
        self, client: httpx.AsyncClient, connection: asyncpg.Connection
    ) -> None:
        content = "title,priority\n" + ",huge\n" * 1500 + "good,low\n"
        problem = check_problem(await upload_csv(client, content), 422, "invalid_file")
        assert (len(problem["errors"]), problem["error_count"]) == (1000, 3000)
        report = await import_csv(client, content)
        assert (report.rows, report.created, report.skipped) == (1501, 1, 1500)
        assert (len(report.errors), report.error_count) == (1000, 3000)

    async def test_upload_without_a_file_is_rejected(self, client: httpx.AsyncClient) -> None:
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
        self, app: FastAPI, connection: asyncpg.Connection
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

        async def test_upload_has_its_own_larger_size_limit(
            self, client: httpx.AsyncClient
        ) -> None:
            assert (await upload_csv(client, "title\n" + "x\n" * 5_000)).status_code == 201
            check_problem(
                await upload_csv(client, "title\n" + "x\n" * 12_000), 413, "body_too_large"
            )

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


async def exported(client: httpx.AsyncClient, **filters: Any) -> tuple[bytes, list[dict[str, str]]]:
    response = await client.get(EXPORT, params=filters)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "text/csv; charset=utf-8"
    assert response.headers["content-disposition"] == 'attachment; filename="tasks.csv"'
    return response.content, list(
        csv.DictReader(io.StringIO(response.content.decode(), newline=""))
    )


class TestExport:
    """Exports."""

    async def test_export_has_every_column_and_only_the_matching_tasks(
        self, client: httpx.AsyncClient
    ) -> None:
        task = await create_task(
            client, title="one", tags=["a", "b"], payload={"n": 1}, priority="urgent"
        )
        await create_task(client, title="two", tags=["b"])
        content, rows = await exported(client, tag="a")
        assert content.splitlines()[0].decode() == ",".join((*COLUMNS, *READ_ONLY))
        [row] = rows
        assert (row["id"], row["title"], row["tags"], row["priority"]) == (
            task["id"],
            "one",
            "a;b",
            "urgent",
        )
        assert (json.loads(row["payload"]), row["created_at"], row["due_date"]) == (
            {"n": 1},
            task["created_at"],
            "",
        )
        check_problem(await client.get(EXPORT, params={"tags": "a"}), 422, "invalid_field")

    async def test_export_without_tasks_is_a_header(self, client: httpx.AsyncClient) -> None:
        content, rows = await exported(client)
        assert (len(content.splitlines()), rows) == (1, [])

    async def test_export_of_several_pages_has_every_task_once(
        self, client: httpx.AsyncClient, connection: asyncpg.Connection
    ) -> None:
        await import_csv(client, "title\n" + "\n".join(f"task {n}" for n in range(1050)))
        _, rows = await exported(client)
        assert sorted(row["title"] for row in rows) == sorted(f"task {n}" for n in range(1050))
        assert len({row["id"] for row in rows}) == 1050

    async def test_cells_that_look_like_formulas_are_escaped(
        self, client: httpx.AsyncClient
    ) -> None:
        for title in ("=1+1", "+1", "-1", "@x", "'=1", "\uff1d1"):
            await create_task(client, title=title, description=title)
        _, rows = await exported(client)
        assert [row["title"] for row in rows] == ["'=1+1", "'+1", "'-1", "'@x", "''=1", "'\uff1d1"]
        assert [row["description"] for row in rows] == [row["title"] for row in rows]

    async def test_export_of_tasks_in_any_state_can_be_imported(
        self, client: httpx.AsyncClient, connection: asyncpg.Connection
    ) -> None:
        await create_task(client, title="waits", handler="noop", run_at=LATER.isoformat())
        await create_task(client, title="done", status="completed", handler="noop")
        await create_task(client, title="late", due_date=LATER.isoformat())
        moved = "UPDATE tasks SET due_date = due_date - interval '60 days', created_at = created_at - interval '60 days'"
        await connection.execute(f"{moved} WHERE title = 'late'")
        content, before = await exported(client)
        await connection.execute(
            "TRUNCATE tasks, queue, conversations, task_deltas, task_counts CASCADE"
        )
        assert (await import_csv(client, content, "all-or-nothing")).created == 3
        _, after = await exported(client)
        assert {row["title"]: [row[c] for c in COLUMNS] for row in after} == {
            row["title"]: [row[c] for c in COLUMNS] for row in before
        }

    async def test_values_over_the_limits_survive_export_and_import(
        self, client: httpx.AsyncClient, connection: asyncpg.Connection
    ) -> None:
        tags = [f"tag {n} {'x' * 60}" for n in range(12)]
        await connection.execute(
            "INSERT INTO tasks (id, status, title, description, tags) "
            "VALUES (gen_random_uuid(), 'pending', $1, $2, $3)",
            title := "t" * 5_000, description := "d" * 9_000, tags,
        )  # fmt: skip
        content, _ = await exported(client)
        await connection.execute("TRUNCATE tasks, queue, task_deltas, task_counts CASCADE")
        assert (await import_csv(client, content, "all-or-nothing")).created == 1
        row = await connection.fetchrow("SELECT title, description, tags FROM tasks")
        assert row is not None and tuple(row) == (title, description, tags)
        plain = io.StringIO()
        csv.writer(plain).writerows([("title", "tags"), (title, ";".join(tags))])
        assert [e[:2] for e in await errors_of(client, plain.getvalue())] == [
            (2, "title"),
            (2, "tags"),
        ]

    async def test_client_that_disconnects_stops_the_export(
        self, app: FastAPI, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await import_csv(client, "title\n" + "x\n" * 1000)
        begun: list[int] = []
        real = app.state.transactions.__class__.read

        def counted(transactions: Any) -> Any:
            begun.append(1)
            return real(transactions)

        monkeypatch.setattr(app.state.transactions.__class__, "read", counted)
        left, asked = asyncio.Event(), False

        async def receive() -> dict[str, Any]:
            nonlocal asked
            if asked:
                await left.wait()
                return {"type": "http.disconnect"}
            asked = True
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.body":
                left.set()
                await asyncio.sleep(0)  # a real server also yields to the event loop here

        scope = {
            "type": "http", "method": "GET", "path": EXPORT, "raw_path": EXPORT.encode(), "query_string": b"",
            "headers": [(b"host", b"service")], "scheme": "http", "server": ("service", 80), "client": ("127.0.0.1", 1),
            "http_version": "1.1", "root_path": "", "asgi": {"version": "3.0", "spec_version": "2.3"},
        }  # fmt: skip
        await app(scope, receive, send)
        assert len(begun) < 5


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=30)
CSV_TEXT = st.one_of(TEXT, st.text("=+-@\"',;|[]\r\n\t a", max_size=12))
TITLES = CSV_TEXT.filter(str.strip)
TASK = st.fixed_dictionaries(
    {
        "title": TITLES,
        "description": CSV_TEXT,
        "assigned_to": st.none() | TITLES,
        "tags": st.lists(CSV_TEXT, max_size=4),
        "payload": st.none()
        | CSV_TEXT
        | st.recursive(st.integers() | st.booleans() | CSV_TEXT, st.lists, max_leaves=4),
        "priority": st.sampled_from(["low", "medium", "high", "urgent"]),
    }
)
FIELDS = (
    "title",
    "description",
    "assigned_to",
    "tags",
    "payload",
    "priority",
    "status",
    "created_by",
)


def comparable_fields(tasks: Iterable[dict[str, Any]]) -> list[list[Any]]:
    """Return the fields that survive an export and import; an empty description becomes null."""
    return [[task[field] or None for field in FIELDS] for task in tasks]


@profile(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(TASK, min_size=1, max_size=6))
async def test_any_exported_task_is_imported_unchanged(
    client: httpx.AsyncClient, connection: asyncpg.Connection, tasks: list[dict[str, Any]]
) -> None:
    await connection.execute(
        "TRUNCATE tasks, queue, conversations, imports, task_deltas, task_counts CASCADE"
    )
    made = await client.post(f"{TASKS}:batch", json={"tasks": tasks})
    assert made.status_code == 201, made.text
    before = [(await client.get(f"{TASKS}/{t['id']}")).json() for t in made.json()["items"]]
    content, _ = await exported(client)
    await connection.execute("TRUNCATE tasks, queue, task_deltas, task_counts CASCADE")
    await import_csv(client, content, "all-or-nothing")
    listed = (await client.get(TASKS, params={"sort": "created_at", "limit": 200})).json()["items"]
    after = [(await client.get(f"{TASKS}/{t['id']}")).json() for t in listed]
    assert sorted(map(repr, comparable_fields(after))) == sorted(
        map(repr, comparable_fields(before))
    )


@given(CSV_TEXT)
def test_escaped_cell_is_not_a_formula_and_can_be_unescaped(cell: str) -> None:
    assert unguard(guard(cell)) == cell
    assert not guard(cell).startswith(("=", "+", "-", "@", "\t", "\r"))


@given(st.lists(CSV_TEXT, max_size=4).map(clean_tags))
def test_tags_in_a_cell_can_be_parsed_back(tags: list[str]) -> None:
    assert clean_tags(split_tags(join_tags(tags))) == tags
