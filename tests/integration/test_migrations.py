"""Migrations: the schema matches the code, and old and new code work on one database."""

import asyncio
from pathlib import Path

import asyncpg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, select

from task_service import migrations
from task_service.embedded import EmbeddedPostgres
from task_service.migrations import SchemaState, code_revision, migrate_command, upgrade
from task_service.migrations.migrate_command import run_migrate
from task_service.migrations.state import read_state
from task_service.migrations.upgrade import Migrated, MigrationError, migrate
from task_service.settings import Settings
from task_service.store.database import create_engine, raw
from task_service.store.tables import metadata, task_view
from tests.support.service_settings import settings_for

pytestmark = pytest.mark.asyncio


async def state_of(database: str) -> SchemaState | None:
    engine = create_engine(settings_for(database), pooled=False)
    async with engine.connect() as connection:
        return await connection.run_sync(read_state)


async def test_migrated_schema_matches_the_tables_of_the_code(database: str) -> None:
    def differences(connection: Connection) -> list[object]:
        options = {"compare_type": True, "compare_server_default": True}
        return list(
            compare_metadata(MigrationContext.configure(connection, opts=options), metadata)
        )

    engine = create_engine(settings_for(database), pooled=False)
    async with engine.connect() as connection:
        assert await connection.run_sync(differences) == []
        assert (await connection.execute(select(task_view))).all() == []


async def test_second_migration_changes_nothing(database: str) -> None:
    engine = create_engine(settings_for(database), pooled=False)
    assert await migrate(engine) == Migrated(code_revision(), code_revision())


async def test_concurrent_migrations_run_once(postgres: EmbeddedPostgres) -> None:
    admin = await asyncpg.connect(postgres.url())
    await admin.execute("CREATE DATABASE at_once")
    engines = [create_engine(settings_for(postgres.url("at_once")), pooled=False) for _ in range(4)]
    results = await asyncio.gather(*(migrate(e) for e in engines))
    assert sorted(d.before for d in results) == [0, *[code_revision()] * 3]
    await admin.execute("DROP DATABASE at_once")
    await admin.close()


async def test_newer_database_is_accepted_if_compatible_and_rejected_otherwise(
    database: str, connection: asyncpg.Connection
) -> None:
    engine = create_engine(settings_for(database), pooled=False)
    await connection.execute("UPDATE schema_state SET revision = 9000")
    assert await migrate(engine) == Migrated(9000, 9000)
    await connection.execute("UPDATE schema_state SET oldest_code = 8000")
    with pytest.raises(MigrationError, match="moved on to schema revision 9000"):
        await migrate(engine)
    assert await state_of(database) == SchemaState(9000, 8000)


async def test_failed_migration_changes_nothing_and_reports_no_password(
    database: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    versions = tmp_path / "versions"
    versions.mkdir()
    for file in migrations.VERSIONS.glob("0*"):
        (versions / file.name).write_bytes(file.read_bytes())
    (versions / "9001_broken.py").write_text(
        f'from alembic import op\nrevision, down_revision, oldest_code = "9001", "{code_revision():04}", 1\n'
        "def upgrade() -> None:\n"
        '    op.execute("CREATE TABLE half_done ()")\n'
        '    op.execute("ALTER TABLE no_such_table ADD COLUMN x int")\n'
    )
    monkeypatch.setattr(upgrade, "code_revision", lambda: 9001)
    make_config = upgrade.alembic_config

    def config_with_broken_version():  # type: ignore[no-untyped-def]
        config = make_config()
        config.set_main_option("version_locations", str(versions))
        return config

    monkeypatch.setattr(upgrade, "alembic_config", config_with_broken_version)
    termination_log = tmp_path / "termination-log"
    termination_log.touch()
    url = database.replace("postgres@", "postgres:geheim@")
    assert await run_migrate(settings_for(url, termination_log=termination_log)) == 1
    assert 'relation "no_such_table" does not exist' in termination_log.read_text()
    assert "geheim" not in termination_log.read_text() + capsys.readouterr().err
    assert await state_of(database) == SchemaState(code_revision(), 1)
    check = await asyncpg.connect(database)
    assert await check.fetchval("SELECT to_regclass('half_done')") is None
    await check.close()


async def test_migration_retries_a_lock_with_a_timeout(
    database: str, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock of one table stands for any lock: the migration times out, retries and succeeds."""
    monkeypatch.setattr(upgrade, "LOCK_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(upgrade, "LOCK_TIMEOUT", "100ms")
    waited = asyncio.Event()
    monkeypatch.setattr(upgrade.log, "info", lambda *_, **__: waited.set())
    await connection.execute("UPDATE schema_state SET revision = 0")
    await connection.execute("DELETE FROM alembic_version")
    holder = connection.transaction()
    await holder.start()
    await connection.execute("LOCK TABLE alembic_version IN ACCESS EXCLUSIVE MODE")
    migrating = asyncio.create_task(migrate(create_engine(settings_for(database), pooled=False)))
    await asyncio.wait_for(waited.wait(), 10)
    await connection.execute("INSERT INTO alembic_version VALUES ($1)", f"{code_revision():04}")
    await holder.commit()
    assert (await migrating).after == code_revision()


@pytest.mark.parametrize("name", ["made by migrate", "made%20by%20migrate"])
async def test_missing_database_is_created_if_the_role_may_create_it(
    postgres: EmbeddedPostgres, name: str
) -> None:
    assert await run_migrate(settings_for(postgres.url(name))) == 0
    assert await state_of(postgres.url("made by migrate")) == SchemaState(code_revision(), 1)
    admin = await asyncpg.connect(postgres.url())
    await admin.execute('DROP DATABASE "made by migrate" WITH (FORCE)')
    await admin.close()


async def test_missing_privilege_to_create_the_database_is_reported(
    postgres: EmbeddedPostgres, capsys: pytest.CaptureFixture[str]
) -> None:
    admin = await asyncpg.connect(postgres.url())
    await admin.execute("CREATE ROLE humble LOGIN")
    settings = settings_for(postgres.url("forbidden").replace("postgres@", "humble@"))
    assert await run_migrate(settings) == 1
    output = capsys.readouterr().err
    assert "may not create it" in output
    assert 'CREATE DATABASE "forbidden" OWNER "humble"' in output
    await admin.execute("REVOKE CONNECT ON DATABASE postgres FROM PUBLIC")
    assert await run_migrate(settings) == 1
    assert "may not create it" in capsys.readouterr().err
    await admin.execute("GRANT CONNECT ON DATABASE postgres TO PUBLIC")
    await admin.close()


async def test_migration_waits_for_a_database_that_starts_late(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ensure_database, pauses = migrate_command.ensure_database, []

    async def late(settings: Settings) -> None:
        pauses.append(1)
        if len(pauses) < 4:
            raise ConnectionRefusedError
        await ensure_database(settings)

    monkeypatch.setattr(migrate_command, "ensure_database", late)
    monkeypatch.setattr(migrate_command, "WAIT_PAUSES_SECONDS", (0.001, 0.002))
    assert await run_migrate(settings_for(database, database_wait_seconds=60)) == 0
    assert len(pauses) == 4


async def test_database_that_never_responds_is_an_error_after_the_wait(
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = settings_for("postgresql://postgres@127.0.0.1:1/tasks", database_wait_seconds=0)
    assert await run_migrate(settings) == 1
    assert "cannot be reached" in capsys.readouterr().err


async def test_raw_connection_belongs_to_the_sqlalchemy_transaction(
    database: str, connection: asyncpg.Connection
) -> None:
    """A rollback undoes it, even if the statement on the raw connection comes first."""
    engine = create_engine(settings_for(database), pooled=False)
    async with engine.connect() as outer:
        await (await raw(outer)).execute(
            "INSERT INTO tasks (id, title) VALUES (gen_random_uuid(), 'x')"
        )
        await outer.rollback()
    assert await connection.fetchval("SELECT count(*) FROM tasks") == 0
