"""`task-service migrate`: bring the database to this code's revision, or leave a newer compatible
one alone.

One transaction under an advisory lock (so it works through a transaction pooler and twice at once
is harmless), with a `lock_timeout` so that a migration never queues every request behind a long
reader; a lock not got is tried again.
"""

import asyncio
import logging
from dataclasses import dataclass
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from task_service.migrations import NEEDS, SchemaState, code_revision
from task_service.migrations.state import read_state

LOCK_KEY = 7_305_612_448_001
LOCK_TIMEOUT = "3s"
LOCK_TRIES = 20
LOCK_PAUSE_SECONDS = 1.5
LOCK_NOT_AVAILABLE = "55P03"

log = logging.getLogger(__name__)


class MigrationError(Exception):
    """A migration cannot be done; the message says why in one line."""


@dataclass(frozen=True, slots=True)
class Migrated:
    """What a run of `migrate` found and did; revision 0 is an empty database."""

    before: int
    after: int


def alembic_config() -> Config:
    """Alembic's settings: the script folder inside the package; no ini file."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.set_main_option("path_separator", "os")
    return config


async def migrate(engine: AsyncEngine) -> Migrated:
    """Migrate, trying again while another session holds a lock in the way.

    Raises MigrationError when the database is too new for this code, or a lock is never free; any
    other database error passes through with nothing changed.
    """
    for tries_left in reversed(range(LOCK_TRIES)):
        try:
            async with engine.begin() as connection:
                return await connection.run_sync(_migrate)
        except DBAPIError as error:
            if getattr(error.orig, "sqlstate", None) != LOCK_NOT_AVAILABLE:
                raise
            if not tries_left:
                raise MigrationError(
                    f"a lock was not free within {LOCK_TRIES} tries of {LOCK_TIMEOUT}"
                ) from error
            log.info("migration waits for a lock", extra={"tries_left": tries_left})
            await asyncio.sleep(LOCK_PAUSE_SECONDS)
    raise AssertionError("unreachable")


def _migrate(connection: Connection) -> Migrated:
    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK_KEY})
    connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'"))
    state = read_state(connection)
    if state and state.revision >= code_revision():
        if problem := state.why_incompatible(NEEDS, code_revision()):
            raise MigrationError(problem)
        _adopt_events(connection)
        return Migrated(state.revision, state.revision)
    config = alembic_config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
    oldest = max(
        getattr(r.module, "oldest_code", 1)
        for r in ScriptDirectory.from_config(config).walk_revisions()
    )
    _write_state(connection, SchemaState(code_revision(), oldest))
    return Migrated(state.revision if state else 0, code_revision())


def _adopt_events(connection: Connection) -> None:
    """Put what a dump brought from another cluster before all events: its transactions are in the
    future here.

    Streams would tell of it as news when the numbers come round.
    """
    for table in ("task_history", "runs"):
        future = "transaction_id >= pg_snapshot_xmax(pg_current_snapshot())"
        connection.execute(text(f"UPDATE {table} SET transaction_id = '0' WHERE {future}"))  # noqa: S608 - two names


def _write_state(connection: Connection, state: SchemaState) -> None:
    upsert = """
        INSERT INTO schema_state (revision, oldest_code) VALUES (:revision, :oldest_code)
        ON CONFLICT (only_row) DO UPDATE
        SET revision = excluded.revision, oldest_code = excluded.oldest_code, migrated_at = clock_timestamp()
    """
    connection.execute(text(upsert), {"revision": state.revision, "oldest_code": state.oldest_code})
