"""Import from service E, and errors that every import reports."""

import asyncio
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import pytest

from task_service.domain.ids import new_id
from task_service.embedded import EmbeddedPostgres
from task_service.services.importing.import_command import run_command
from task_service.services.importing.run import run_import
from tests.support.invariants import check_invariants
from tests.support.legacy_databases import E, count_rows, legacy_database
from tests.support.service_settings import settings_for


async def test_priorities_tags_assignees_and_due_dates_are_imported(
    postgres: EmbeddedPostgres, database: str, connection: asyncpg.Connection
) -> None:
    key = new_id()
    async with legacy_database(postgres, E) as (url, source):
        await source.execute(
            """
            INSERT INTO tasks (id, title, status, priority, assigned_to, due_date, tags, completed_at) VALUES
                ($1, 'one', 'COMPLETED', 'critical', 'ada', '2020-01-01 00:00+02', '["Home", "home", "x"]',
                '2021-01-01Z')
            """,
            key,
        )
        summary = await run_import(settings_for(database), "e", url)
        before = await count_rows(connection)
        await run_import(settings_for(database), "e", url)
    row = await connection.fetchrow("SELECT * FROM task_view")
    assert row is not None
    assert (row["id"], row["status"], row["priority"], row["assigned_to"]) == (
        key,
        "completed",
        0,
        "ada",
    )
    assert row["due_date"] == datetime(2019, 12, 31, 22, tzinfo=UTC)
    assert row["tags"] == ["Home", "x"]
    assert row["processed_at"] == datetime(2021, 1, 1, tzinfo=UTC)
    assert (summary.left_out.count, await count_rows(connection)) == (0, before)
    await check_invariants(connection)


@pytest.mark.parametrize(
    "tags",
    ["text DEFAULT 'a, B;b'", "text[] DEFAULT '{a,B,b}'", """json DEFAULT '["a", "B", "b"]'"""],
)
async def test_tags_are_read_from_lists_json_and_text(
    postgres: EmbeddedPostgres, database: str, connection: asyncpg.Connection, tags: str
) -> None:
    async with legacy_database(
        postgres, f"CREATE TABLE tasks (id int, title text, tags {tags})"
    ) as (
        url,
        source,
    ):
        await source.execute("INSERT INTO tasks VALUES (1, 'x')")
        await run_import(settings_for(database), "e", url)
    assert await connection.fetchval("SELECT tags FROM tasks") == ["a", "B"]


async def test_rows_that_the_database_rejects_are_reported_and_skipped(
    postgres: EmbeddedPostgres, database: str, connection: asyncpg.Connection
) -> None:
    async with legacy_database(
        postgres, "CREATE TABLE tasks (id int, title text, due_date timestamp, assigned_to text)"
    ) as (
        url,
        source,
    ):
        await source.execute("""
            INSERT INTO tasks SELECT n, 'task ' || n FROM generate_series(1, 1500) AS n;
            UPDATE tasks SET due_date = 'infinity' WHERE id = 3;
            UPDATE tasks SET assigned_to = (SELECT string_agg(md5(n::text), '') FROM generate_series(1, 1000) AS n)
            WHERE id = 700
        """)
        summary = await run_import(settings_for(database), "e", url)
    assert (summary.of("tasks").made, summary.of("tasks").left_out) == (1498, 2)
    assert summary.left_out.first[0] == "tasks 3: invalid time in due_date: 'infinity'"
    assert summary.left_out.first[1].startswith("tasks 700: index row")
    assert (await count_rows(connection))["tasks"] == 1498


async def test_interrupted_run_continues_where_it_stopped(
    postgres: EmbeddedPostgres, database: str, connection: asyncpg.Connection
) -> None:
    async with legacy_database(postgres, "CREATE TABLE tasks (id int, title text)") as (
        url,
        source,
    ):
        await source.execute(
            "INSERT INTO tasks SELECT n, 'task ' || n FROM generate_series(1, 3500) AS n"
        )
        await connection.execute("""
            CREATE FUNCTION stumble() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN IF NEW.title = 'task 2500' THEN RAISE EXCEPTION 'stumbled'; END IF; RETURN NEW; END $$;
            CREATE TRIGGER stumble BEFORE INSERT ON tasks FOR EACH ROW EXECUTE FUNCTION stumble()
        """)
        with pytest.raises(asyncpg.RaiseError, match="stumbled"):
            await run_import(settings_for(database), "e", url)
        assert (await count_rows(connection))["tasks"] == 2000
        await connection.execute("DROP TRIGGER stumble ON tasks")
        summary = await run_import(settings_for(database), "e", url)
    assert (summary.of("tasks").known, summary.of("tasks").made) == (2000, 1500)
    await check_invariants(connection)


async def test_wrong_kind_of_database_is_rejected_with_the_missing_parts(
    postgres: EmbeddedPostgres, database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = settings_for(database)
    async with legacy_database(postgres, "CREATE TABLE tasks (number int, colour text)") as (
        url,
        _,
    ):
        assert await run_command(settings, "C", url, dry_run=False) == 1
    errors = capsys.readouterr().err
    assert "not a database of service C" in errors
    assert "tasks.id (or task_id, uuid)" in errors
    assert "tasks.title (or name, task_title)" in errors
    assert "the table conversations" in errors
    assert await run_command(settings, "e", database, dry_run=False) == 1
    assert "a database of the task service itself" in capsys.readouterr().err
    assert await run_command(settings, "f", database, dry_run=False) == 2


@pytest.mark.parametrize(
    "url",
    ["postgresql://ada:geheim@127.0.0.1:1/tasks", "mysql://ada:geheim@127.0.0.1/tasks", "nonsense"],
)
async def test_connection_error_does_not_show_the_password(
    database: str, capsys: pytest.CaptureFixture[str], url: str
) -> None:
    assert await run_command(settings_for(database), "e", url, dry_run=False) == 1
    errors = capsys.readouterr().err
    assert errors.startswith("import failed: ")
    assert "geheim" not in errors


async def test_target_database_must_be_migrated(
    postgres: EmbeddedPostgres, capsys: pytest.CaptureFixture[str]
) -> None:
    async with (
        legacy_database(postgres, "SELECT") as (empty, _),
        legacy_database(postgres, E) as (url, source),
    ):
        await source.execute(
            "INSERT INTO tasks (id, title, status, priority) VALUES (gen_random_uuid(), 'x', 'pending', 'low')"
        )
        assert await run_command(settings_for(empty), "e", url, dry_run=False) == 1
    assert "run task-service migrate first" in capsys.readouterr().err


async def test_command_prints_a_summary_and_exits_with_3_for_skipped_rows(
    postgres: EmbeddedPostgres, database: str, tmp_path: Path
) -> None:
    async with legacy_database(
        postgres, "CREATE TABLE tasks (id int, title text, colour text)"
    ) as (
        url,
        source,
    ):
        await source.execute("INSERT INTO tasks VALUES (1, 'x'), (2, '')")
        command = [sys.executable, "-m", "task_service.cli", "import", "--from", "e"]
        environment = {"DATABASE_URL": database, "SOURCE_DATABASE_URL": url, "PATH": "/usr/bin"}
        done = await asyncio.to_thread(
            subprocess.run,
            command,
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 3, done.stderr
    assert "tasks 2: the title is empty" in done.stdout
    assert "tasks.colour is not read" in done.stdout
