"""Many clients that change one task with `If-Match`."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import httpx
import pytest
import pytest_asyncio
from fastapi import FastAPI

from task_service.api.app import create_app
from task_service.loops.cache_watch import watch_cache
from task_service.settings import Settings
from task_service.store.database import create_engine
from tests.support.problems import check_problem
from tests.support.service_settings import settings_for
from tests.support.task_api import create_task
from tests.support.tasks import quiet_wakeups

pytestmark = pytest.mark.asyncio
CLIENTS, UPDATES_EACH = 16, 3


@pytest.fixture
def settings(database: str) -> Settings:
    """Settings with a long lease: a busy machine must not end a transaction that waits for a lock."""
    return settings_for(database, lease_seconds=30)


@pytest_asyncio.fixture
async def clients(app: FastAPI, settings: Settings) -> AsyncIterator[list[httpx.AsyncClient]]:
    """Sixteen clients of two API instances, which both may read the cache if there is one."""
    engine = create_engine(settings)
    apps = [app, create_app(settings, engine, quiet_wakeups())]
    made = [
        httpx.AsyncClient(transport=httpx.ASGITransport(apps[n % 2]), base_url="http://service")
        for n in range(CLIENTS)
    ]
    watches = [
        watch
        for one in apps
        for watch in watch_cache(one.state.transactions.settings, one.state.transactions.cache)
    ]
    for watch in watches:
        await watch.start()
    yield made
    for client in made:
        await client.aclose()
    for watch in watches:
        await watch.stop()
    await engine.dispose()


async def test_sixteen_clients_with_if_match_lose_no_update(
    clients: list[httpx.AsyncClient], connection: asyncpg.Connection
) -> None:
    task = await create_task(clients[0], payload={"count": 0}, handler="noop", queue="unserved")
    path = f"/api/v1/tasks/{task['id']}"
    refused = 0

    async def add_one(client: httpx.AsyncClient) -> None:
        nonlocal refused
        for _ in range(UPDATES_EACH):
            while True:
                seen = await client.get(path)
                count = seen.json()["payload"]["count"] + 1
                guard = {"If-Match": seen.headers["etag"]}
                response = await client.patch(
                    path, json={"payload": {"count": count}}, headers=guard
                )
                if response.status_code == 200:
                    break
                check_problem(response, 412, "stale_version")
                refused += 1

    await asyncio.gather(*(add_one(client) for client in clients))
    final = (await clients[0].get(path)).json()
    assert (final["payload"]["count"], final["version"]) == (
        CLIENTS * UPDATES_EACH,
        1 + CLIENTS * UPDATES_EACH,
    )
    assert refused > 0
    assert await connection.fetchval(
        "SELECT count(*) FROM task_history WHERE fields = '{payload}'"
    ) == (CLIENTS * UPDATES_EACH)


async def test_one_of_many_updates_with_the_same_etag_succeeds(
    clients: list[httpx.AsyncClient],
) -> None:
    task = await create_task(clients[0], tags=["0"])
    path = f"/api/v1/tasks/{task['id']}"
    guard = {"If-Match": (await clients[0].get(path)).headers["etag"]}
    responses = await asyncio.gather(
        *(
            client.patch(path, json={"title": str(n)}, headers=guard)
            for n, client in enumerate(clients)
        )
    )
    assert sorted(response.status_code for response in responses) == [200] + [412] * (CLIENTS - 1)
    [winner] = [response.json()["title"] for response in responses if response.status_code == 200]
    assert {(await client.get(path)).json()["title"] for client in clients} == {winner}
