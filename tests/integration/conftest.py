"""A real PostgreSQL for every test: one server a session, a database a test, copied from a migrated template."""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest
import pytest_asyncio

from task_service.domain.ids import new_id
from task_service.embedded import EmbeddedPostgres
from task_service.migrations.runner import migrate
from task_service.settings import Settings
from task_service.store.database import create_engine
from tests.support.between import forget_all, more_servers, more_settings

QUICK = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_connections": "300",
}


@pytest.fixture(scope="session")
def postgres() -> Iterator[EmbeddedPostgres]:
    """The session's server. Not durable: nothing here outlives the session, and crashes have a server of their own."""
    folder = Path(tempfile.mkdtemp(prefix="task-service-test-", dir="/var/tmp"))
    server = EmbeddedPostgres(folder, options=QUICK)
    try:
        server.start()
        with more_servers(server.url()):
            yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def template(postgres: EmbeddedPostgres) -> str:
    """The name of a migrated, empty database."""

    async def make() -> None:
        admin = await asyncpg.connect(postgres.url())
        await admin.execute("CREATE DATABASE template_tasks")
        await admin.close()
        settings = settings_for(postgres.url("template_tasks"), between=False)
        engine = create_engine(settings, pooled=False)
        await migrate(engine)

    asyncio.run(make())
    return "template_tasks"


@pytest_asyncio.fixture
async def database(postgres: EmbeddedPostgres, template: str) -> AsyncIterator[str]:
    """The address of this test's own migrated database."""
    name = f"test_{new_id().hex}"
    forget_all()
    admin = await asyncpg.connect(postgres.url())
    await admin.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
    yield postgres.url(name)
    await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await admin.close()


@pytest_asyncio.fixture
async def connection(database: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to this test's database."""
    connection = await asyncpg.connect(database)
    yield connection
    await connection.close()


def settings_for(url: str, *, between: bool = True, **more: object) -> Settings:
    """Settings for a test: this database, quick heartbeats, nothing from the environment's .env.

    With what TEST_REDIS and TEST_POOLER put between, unless the test says otherwise.
    """
    given = {
        "heartbeat_seconds": 0.2,
        "lease_seconds": 1.0,
        "log_format": "console",
        "auth_mode": "open",
    }
    given |= {"database_url": url} | (more_settings(url) if between else {}) | more
    return Settings(_env_file=None, **given)  # type: ignore[call-arg,arg-type]
