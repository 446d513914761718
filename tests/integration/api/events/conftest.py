"""Fixtures for tests of event streams over real sockets."""

from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio
from fastapi import FastAPI

from task_service.settings import Settings
from tests.support.event_streams import default_lease_settings
from tests.support.http_servers import full_server


@pytest.fixture
def settings(database: str) -> Settings:
    return default_lease_settings(database)


@pytest_asyncio.fixture
async def url(app: FastAPI) -> AsyncIterator[str]:
    async with full_server(app) as url:
        yield url


@pytest_asyncio.fixture
async def api(url: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=url) as client:
        yield client
