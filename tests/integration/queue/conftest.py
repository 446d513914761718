"""Real queue for the model-based tests."""

import asyncio
from collections.abc import Iterator

import asyncpg
import pytest

from task_service.domain.ids import new_id
from task_service.embedded import EmbeddedPostgres
from tests.support.queue_model.real_queue import RealQueue
from tests.support.service_settings import settings_for


@pytest.fixture(scope="module")
def real_queue(postgres: EmbeddedPostgres, template: str) -> Iterator[RealQueue]:
    """One database per module, which every history empties first."""
    name = f"model_{new_id().hex}"

    async def administer(statement: str) -> None:
        connection = await asyncpg.connect(postgres.url())
        await connection.execute(statement)
        await connection.close()

    asyncio.run(administer(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy"))
    url = postgres.url(name)
    settings = settings_for(url, use_optional_servers=False, lease_seconds=3600)
    with RealQueue(url, settings) as queue:
        yield queue
    asyncio.run(administer(f"DROP DATABASE {name} WITH (FORCE)"))
