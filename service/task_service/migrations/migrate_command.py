"""`task-service migrate` as a process: make the database when it is missing, migrate, and say in
one line why not.
"""

import asyncio
import re
import sys
import time
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

import asyncpg
import structlog

from task_service.clocks import growing_pauses
from task_service.migrations.upgrade import MigrationError, migrate
from task_service.settings import Settings
from task_service.store.database import CONNECT_SECONDS, create_engine, is_unavailable

REASON_MAX = 1000
WAIT_PAUSES_SECONDS = (0.1, 2.0)
"""Between two attempts to connect: at first, and at most."""
log = structlog.get_logger(__name__)


async def run_migrate(settings: Settings) -> int:
    """Migrate; return the exit code, 1 with the reason on standard error and in the termination
    log.
    """
    try:
        await _wait_for_database(settings)
        engine = create_engine(settings, pooled=False)
        try:
            done = await migrate(engine)
        finally:
            await engine.dispose()
    except Exception as error:  # noqa: BLE001 - whatever it is, Kubernetes and people want it in one line
        tell(settings, why(error))
        return 1
    log.info("migrated", before=done.before, after=done.after)
    return 0


async def _wait_for_database(settings: Settings) -> None:
    """Try again while the database does not answer: it may be starting beside us."""
    deadline = time.monotonic() + settings.database_wait_seconds
    pauses = growing_pauses(*WAIT_PAUSES_SECONDS)
    while True:
        try:
            return await ensure_database(settings)
        except Exception as error:
            if (
                isinstance(error, MigrationError)
                or not is_unavailable(error)
                or time.monotonic() > deadline
            ):
                raise
            log.info("waiting_for_database", error=why(error))
            await asyncio.sleep(next(pauses))


async def ensure_database(settings: Settings) -> None:
    """Create the database when it does not exist and the role may; asyncpg's error otherwise."""
    url = settings.read_database_url()
    try:
        connection = await asyncpg.connect(url, timeout=CONNECT_SECONDS)
    except asyncpg.InvalidCatalogNameError:
        parts = urlsplit(url)
        await _create_database(
            urlunsplit(parts._replace(path="/postgres")), unquote(parts.path.lstrip("/"))
        )
    else:
        await connection.close()


async def _create_database(beside: str, name: str) -> None:
    """Create it by way of a database that is there. Raises MigrationError when the role may not; it
    says what to do.
    """
    quoted = '"' + name.replace('"', '""') + '"'
    try:
        admin = await asyncpg.connect(beside, timeout=CONNECT_SECONDS)
        try:
            await admin.execute(f"CREATE DATABASE {quoted}")
        finally:
            await admin.close()
    except asyncpg.DuplicateDatabaseError:
        log.info("database_created_meanwhile", database=name)
    except (
        asyncpg.InsufficientPrivilegeError,
        asyncpg.InvalidAuthorizationSpecificationError,
        asyncpg.InvalidCatalogNameError,
    ) as error:
        role = unquote(urlsplit(beside).username or "ROLE").replace('"', '""')
        raise MigrationError(
            f"the database {name} does not exist and the role may not create it; somebody who may: "
            f'CREATE DATABASE {quoted} OWNER "{role}"'
        ) from error


def why(error: BaseException) -> str:
    """An error in one line, without credentials.

    >>> why(ValueError("cannot reach postgresql://ada:secret@db:5432/tasks, sorry"))
    'ValueError: cannot reach postgresql://***@db:5432/tasks, sorry'
    """
    cause = getattr(error, "orig", None) or error
    text = str(cause) if isinstance(error, MigrationError) else f"{type(cause).__name__}: {cause}"
    if is_unavailable(error) and not isinstance(error, MigrationError):
        text = f"the database cannot be reached: {text}"
    text = re.sub(r"(\w+://)[^@\s/]+@", r"\1***@", " ".join(text.split()))
    return re.sub(r"(?i)(password=)\S+", r"\1***", text)[:REASON_MAX]


def tell(settings: Settings, reason: str) -> None:
    """Say why: to people on standard error, to Kubernetes in the termination log where there is
    one.
    """
    print(f"migrate failed: {reason}", file=sys.stderr)
    log_file = Path(settings.termination_log)
    if log_file.exists():
        log_file.write_text(reason)
