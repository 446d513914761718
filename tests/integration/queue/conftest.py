"""A stage for the model of the queue, one per module: every history empties its database first."""

import asyncio
from collections.abc import Iterator

import asyncpg
import pytest

from task_service.domain.ids import new_id
from task_service.embedded import EmbeddedPostgres
from tests.support.queue_model.stage import Stage
from tests.support.service_settings import settings_for


@pytest.fixture(scope="module")
def stage(postgres: EmbeddedPostgres, template: str) -> Iterator[Stage]:
    """Where histories are played."""
    name = f"model_{new_id().hex}"

    async def administer(statement: str) -> None:
        connection = await asyncpg.connect(postgres.url())
        await connection.execute(statement)
        await connection.close()

    asyncio.run(administer(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy"))
    url = postgres.url(name)
    with Stage(url, settings_for(url, use_optional_servers=False, lease_seconds=3600)) as stage:
        yield stage
    asyncio.run(administer(f"DROP DATABASE {name} WITH (FORCE)"))
