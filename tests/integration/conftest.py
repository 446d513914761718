"""One PostgreSQL server per session and one database per test, copied from a migrated template."""

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
from task_service.migrations.upgrade import migrate
from task_service.store.database import create_engine
from tests.support.service_settings import flush_redis, optional_servers, settings_for

QUICK = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_connections": "300",
}


@pytest.fixture(scope="session")
def postgres() -> Iterator[EmbeddedPostgres]:
    """PostgreSQL server of the session, without durability; tests of crashes start their own."""
    folder = Path(tempfile.mkdtemp(prefix="task-service-test-", dir="/var/tmp"))
    server = EmbeddedPostgres(folder, options=QUICK)
    try:
        server.start()
        with optional_servers(server.url()):
            yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def template(postgres: EmbeddedPostgres) -> str:
    """Name of the migrated, empty template database."""

    async def make() -> None:
        admin = await asyncpg.connect(postgres.url())
        await admin.execute("CREATE DATABASE template_tasks")
        await admin.close()
        settings = settings_for(postgres.url("template_tasks"), use_optional_servers=False)
        engine = create_engine(settings, pooled=False)
        await migrate(engine)

    asyncio.run(make())
    return "template_tasks"


@pytest_asyncio.fixture
async def database(postgres: EmbeddedPostgres, template: str) -> AsyncIterator[str]:
    """URL of a migrated database for this test."""
    name = f"test_{new_id().hex}"
    flush_redis()
    admin = await asyncpg.connect(postgres.url())
    await admin.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
    yield postgres.url(name)
    await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await admin.close()


@pytest_asyncio.fixture
async def connection(database: str) -> AsyncIterator[asyncpg.Connection]:
    """Connection to this test's database."""
    connection = await asyncpg.connect(database)
    yield connection
    await connection.close()
