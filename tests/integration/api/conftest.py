"""The real applications on a real database, spoken to over HTTP."""

from collections.abc import AsyncIterator, Awaitable, Callable

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
from task_service.settings import Settings
from task_service.store.cache.redis import RedisAwayError
from task_service.store.database import create_engine
from tests.support.invariants import check_invariants
from tests.support.people import KEY, People
from tests.support.sample_tasks import insert_sample_tasks
from tests.support.service_settings import settings_for
from tests.support.tasks import add_worker, quiet_wakeups
from tests.support.waiting import eventually


@pytest.fixture
def settings(database: str) -> Settings:
    """The API's settings."""
    return settings_for(database, db_pool_timeout_seconds=1, lease_seconds=15)


@pytest_asyncio.fixture
async def engine(settings: Settings) -> AsyncIterator[AsyncEngine]:
    """The API's connections."""
    engine = create_engine(settings)
    yield engine
    await engine.dispose()


@pytest.fixture
def wakeups() -> Wakeups:
    """What tells workers of new tasks."""
    return quiet_wakeups()


@pytest.fixture
def app(settings: Settings, engine: AsyncEngine, wakeups: Wakeups) -> FastAPI:
    """The public application."""
    return create_app(settings, engine, wakeups)


@pytest_asyncio.fixture
async def running_app(app: FastAPI) -> AsyncIterator[FastAPI]:
    """The public application with what runs beside its requests; a test that takes `client` too gets this one."""
    async with loop.running(app.state.background):
        yield app


@pytest_asyncio.fixture
async def people(database: str, engine: AsyncEngine, wakeups: Wakeups) -> AsyncIterator[People]:
    """The people of an application that asks everybody for a token."""
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
        yield People(app)


@pytest_asyncio.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the public application; with TEST_REDIS=1 the cache may be read from its first request on."""
    watches = watch_cache(app.state.context)
    for watch in watches:
        await eventually("a first look at Redis", lambda watch=watch: _looks(watch))
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://service"
    ) as client:
        yield client
    for watch in watches:
        await watch.stop()


async def _looks(watch: CacheWatch) -> bool:
    try:
        await watch.look()
    except RedisAwayError:  # a busy machine's may answer late
        return False
    return True


@pytest_asyncio.fixture
async def held(connection: asyncpg.Connection) -> Callable[[str], Awaitable[Claim]]:
    """A function that lets a worker claim the next task, which must be the one with this id."""
    worker = await add_worker(connection)

    async def hold(task_id: str) -> Claim:
        [claimed] = await claim(connection, worker, Bounds(["default"]), 1, start_at_once=True)
        assert str(claimed.task_id) == task_id
        return claimed

    return hold


@pytest_asyncio.fixture(autouse=True)
async def _consistent(connection: asyncpg.Connection) -> AsyncIterator[None]:
    """Whatever a test does through the API, the database is consistent in the end."""
    yield
    await check_invariants(connection)


@pytest_asyncio.fixture(scope="module")
async def crowded(postgres: EmbeddedPostgres, template: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to a database with 30,000 tasks in every state, analysed; tests only read it."""
    admin = await asyncpg.connect(postgres.url())
    name = f"crowded_{new_id().hex}"
    await admin.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
    connection = await asyncpg.connect(postgres.url(name))
    await insert_sample_tasks(connection, 30_000)
    yield connection
    await connection.close()
    await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await admin.close()
