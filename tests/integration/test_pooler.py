"""The service behind a transaction pooler: no LISTEN, session settings or prepared statements."""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID

import asyncpg
import httpx
import pytest
import pytest_asyncio

from task_service.api.app import create_app
from task_service.embedded import EmbeddedPostgres
from task_service.migrations.upgrade import migrate
from task_service.queue.wakeups import Wakeups
from task_service.settings import Settings
from task_service.store.database import connect, create_engine
from task_service.worker.builtin import builtin_handlers
from task_service.worker.handlers import Handlers
from task_service.worker.process import Worker
from tests.support.invariants import check_invariants
from tests.support.pooler import transaction_pooler
from tests.support.service_settings import settings_for
from tests.support.tasks import add_tasks, statuses
from tests.support.waiting import eventually

pytestmark = pytest.mark.asyncio


@pytest_asyncio.fixture
async def pooled(database: str, tmp_path: Path) -> AsyncIterator[Settings]:
    """Settings of a service that reaches the test's database through a pooler."""
    with transaction_pooler(database) as url:
        settings = settings_for(
            url,
            database_pooler=True,
            runtime_dir=tmp_path,
            conversations_min_seconds=0,
            conversations_max_seconds=0,
            lease_seconds=15,  # the default, so that no lease ends
        )

        async def responses() -> bool:
            try:
                connection = await connect(settings)
            except OSError:
                return False
            await connection.close()
            return True

        await eventually("the pooler's first answer", responses)
        yield settings


async def test_requests_return_503_while_the_pooler_has_no_server() -> None:
    """The pooler still accepts connections, and queues statements for two minutes."""
    with (
        tempfile.TemporaryDirectory(prefix="task-service-test-", dir="/var/tmp") as folder,
        EmbeddedPostgres(Path(folder)) as server,
        transaction_pooler(server.url()) as url,
    ):
        await migrate(create_engine(settings_for(server.url()), pooled=False))
        engine = create_engine(
            settings := settings_for(url, database_pooler=True, db_statement_timeout_seconds=1)
        )
        app = create_app(settings, engine, Wakeups(lambda queues: asyncio.sleep(0)))
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://api"
        ) as client:

            async def status() -> int:
                return (await client.get("/api/v1/tasks")).status_code

            assert await status() == 200
            await asyncio.to_thread(server.stop)
            async with asyncio.timeout(60):
                assert [await status() for _ in range(3)] == [503] * 3
            await asyncio.to_thread(server.start)

            async def is_available() -> bool:
                return await status() == 200

            await eventually("an answer", is_available)
        await engine.dispose()


async def test_two_workers_complete_tasks_through_the_pooler(
    pooled: Settings, connection: asyncpg.Connection, tmp_path: Path
) -> None:
    engine = create_engine(pooled)
    app = create_app(pooled, engine, Wakeups(lambda queues: asyncio.sleep(0)))
    handlers = Handlers(builtin_handlers(pooled))
    workers = [Worker(pooled, handlers) for _ in range(2)]
    for worker in workers:
        await worker.start()
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://api"
    ) as client:
        bodies = [
            {"title": f"t{n}", "handler": "conversations", "conversations": [{"body": n}]}
            for n in range(60)
        ]
        responses = await asyncio.gather(
            *(client.post("/api/v1/tasks", json=body) for body in bodies)
        )
        assert {response.status_code for response in responses} == {201}
        ids = [UUID(response.json()["id"]) for response in responses] + await add_tasks(
            connection, 500
        )

        async def done() -> bool:
            return set(await statuses(connection, ids)) == {"completed"}

        await eventually("every task's completion", done, 30)
        listed = await client.get("/api/v1/tasks", params={"status": "completed", "limit": 200})
        assert len(listed.json()["items"]) == 200
    assert (
        await connection.fetchval("SELECT count(*) FROM conversations WHERE status = 'processed'")
        == 60
    )
    assert await connection.fetchval("SELECT count(*) FROM runs WHERE final") == 560
    # Workers may release prefetched tasks. Every other attempt must be final.
    assert (
        await connection.fetchval(
            "SELECT count(*) FROM runs WHERE NOT final AND outcome <> 'released'"
        )
        == 0
    )
    await check_invariants(connection)
    for worker in workers:
        await worker.stop()
    await engine.dispose()
