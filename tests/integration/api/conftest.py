"""The real applications on a real database, called over HTTP."""

import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path

import asyncpg
import httpx
import pytest
import pytest_asyncio
from fastapi import FastAPI
from sqlalchemy.ext.asyncio import AsyncEngine

from task_service.api.app import create_app
from task_service.domain.ids import new_id
from task_service.embedded import EmbeddedPostgres
from task_service.loops import loop
from task_service.loops.cache_watch import CacheWatch, watch_cache
from task_service.queue.claims import Bounds, Claim, claim
from task_service.queue.wakeups import Wakeups
from task_service.services.transactions import TransactionManager
from task_service.settings import Settings
from task_service.store.cache.redis import RedisAwayError
from task_service.store.database import create_engine
from tests.support.invariants import check_invariants
from tests.support.sample_tasks import insert_sample_tasks
from tests.support.secured_app import KEY, SecuredApp
from tests.support.service_settings import settings_for
from tests.support.stoppable_database import StoppableDatabase
from tests.support.tasks import add_worker, quiet_wakeups
from tests.support.waiting import eventually


@pytest.fixture
def settings(database: str) -> Settings:
    """Settings of the API."""
    return settings_for(database, db_pool_timeout_seconds=1, lease_seconds=15)


@pytest_asyncio.fixture
async def engine(settings: Settings) -> AsyncIterator[AsyncEngine]:
    """Database engine of the API."""
    engine = create_engine(settings)
    yield engine
    await engine.dispose()


@pytest.fixture
def wakeups() -> Wakeups:
    """Notifications to workers about new tasks."""
    return quiet_wakeups()


@pytest.fixture
def app(settings: Settings, engine: AsyncEngine, wakeups: Wakeups) -> FastAPI:
    """Public application."""
    return create_app(settings, engine, wakeups)


@pytest_asyncio.fixture
async def running_app(app: FastAPI) -> AsyncIterator[FastAPI]:
    """Public application with its background loops; `client` calls this instance."""
    async with loop.running(app.state.background):
        yield app


@pytest_asyncio.fixture
async def secured(
    database: str, engine: AsyncEngine, wakeups: Wakeups
) -> AsyncIterator[SecuredApp]:
    """Application that requires a token from every caller."""
    settings = settings_for(
        database,
        auth_mode="required",
        secret_key=KEY,
        rate_limit_login=None,
        rate_limit_upload=None,
        lease_seconds=15,
    )
    app = create_app(settings, engine, wakeups)
    async with loop.running(app.state.background):
        yield SecuredApp(app)


@pytest_asyncio.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """Client of the public application; with TEST_REDIS=1 its first request may read the cache."""
    transactions: TransactionManager = app.state.transactions
    watches = watch_cache(transactions.settings, transactions.cache)
    for watch in watches:
        await eventually("the first check of Redis", partial(_check_redis, watch))
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://service"
    ) as client:
        yield client
    for watch in watches:
        await watch.stop()


async def _check_redis(watch: CacheWatch) -> bool:
    try:
        await watch.check()
    except RedisAwayError:  # Redis may be slow on a busy machine
        return False
    return True


@pytest_asyncio.fixture
async def claim_task(connection: asyncpg.Connection) -> Callable[[str], Awaitable[Claim]]:
    """Function that claims the next task, which must have this id, for a worker."""
    worker = await add_worker(connection)

    async def claim_next(task_id: str) -> Claim:
        [claimed] = await claim(connection, worker, Bounds(["default"]), 1, start_at_once=True)
        assert str(claimed.task_id) == task_id
        return claimed

    return claim_next


@pytest_asyncio.fixture
async def other(database: str) -> AsyncIterator[asyncpg.Connection]:
    """Second connection to this test's database, as of another process."""
    connection = await asyncpg.connect(database)
    yield connection
    await connection.close()


@pytest_asyncio.fixture(autouse=True)
async def _consistent(connection: asyncpg.Connection) -> AsyncIterator[None]:
    """Check after each test that the database is consistent."""
    yield
    await check_invariants(connection)


@pytest_asyncio.fixture(scope="module")
async def large_database(
    postgres: EmbeddedPostgres, template: str
) -> AsyncIterator[asyncpg.Connection]:
    """Connection to an analysed, read-only database with 30,000 tasks in every state."""
    admin = await asyncpg.connect(postgres.url())
    name = f"crowded_{new_id().hex}"
    await admin.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
    connection = await asyncpg.connect(postgres.url(name))
    await insert_sample_tasks(connection, 30_000)
    yield connection
    await connection.close()
    await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await admin.close()


@pytest.fixture(scope="session")
def stoppable_server() -> Iterator[EmbeddedPostgres]:
    """PostgreSQL server for `stoppable_database`."""
    folder = tempfile.mkdtemp(prefix="task-service-test-", dir="/var/tmp")
    server = EmbeddedPostgres(Path(folder), options={"fsync": "off"})
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest_asyncio.fixture
async def stoppable_database(
    stoppable_server: EmbeddedPostgres,
) -> AsyncIterator[StoppableDatabase]:
    """Empty database on a server that the test may stop."""
    name = f"stoppable_{new_id().hex}"
    admin = await asyncpg.connect(stoppable_server.url())
    await admin.execute(f"CREATE DATABASE {name}")
    await admin.close()
    database = StoppableDatabase(stoppable_server, stoppable_server.url(name))
    yield database
    database.start()
