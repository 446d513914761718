"""Streams end when their token is no longer valid."""

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest

from task_service.api.http import sse
from task_service.domain.permissions import Role
from tests.support.event_streams import EVENTS, INSERT_CHANGE, add_task, holds
from tests.support.http_servers import full_server
from tests.support.problems import check_problem
from tests.support.secured_app import SecuredApp
from tests.support.sse import open_stream
from tests.support.task_api import TASKS
from tests.support.waiting import eventually

pytestmark = pytest.mark.asyncio


async def test_stream_ends_when_its_token_is_revoked(
    secured: SecuredApp, monkeypatch: pytest.MonkeyPatch, connection: asyncpg.Connection
) -> None:
    monkeypatch.setattr(sse, "BEAT_SECONDS", 0.3)
    users = [await secured.register(name, Role.VIEWER) for name in ("ada", "bob")]
    ada, bob = map(secured.token, users)
    async with full_server(secured.app) as url, httpx.AsyncClient(base_url=url) as api:
        check_problem(await api.get(EVENTS), 401, "unauthorized")
        check_problem(await api.get(f"{TASKS}/{uuid4()}/events"), 401, "unauthorized")
        async with (
            open_stream(url + EVENTS, token=ada) as one,
            open_stream(url + EVENTS, token=bob) as other,
        ):
            await eventually("a heartbeat", lambda: holds(one.comments))
            await connection.execute("UPDATE users SET disabled_at = now() WHERE username = 'ada'")
            await asyncio.wait_for(one.ended.wait(), 10)
            assert not one.error
            assert not other.ended.is_set()
            await connection.execute("UPDATE users SET token_version = token_version + 1")
            await asyncio.wait_for(other.ended.wait(), 10)
        check_problem(
            await api.get(EVENTS, headers={"authorization": f"Bearer {ada}"}),
            401,
            "invalid_token",
        )


async def test_stream_ends_when_its_token_expires_under_load(
    secured: SecuredApp, monkeypatch: pytest.MonkeyPatch, connection: asyncpg.Connection
) -> None:
    monkeypatch.setattr(sse, "BEAT_SECONDS", 0.3)
    tokens: Any = secured.app.state.authenticator.credentials.tokens
    monkeypatch.setattr(tokens, "access_life", timedelta(seconds=4))
    user, task_id = await secured.register("ada", Role.VIEWER), await add_task(connection)
    async with full_server(secured.app) as url:
        load = asyncio.create_task(write_endlessly(connection, task_id))
        async with open_stream(url + EVENTS, token=secured.token(user)) as stream:
            await asyncio.wait_for(stream.ended.wait(), 20)
            assert stream.messages
            assert not stream.error
        load.cancel()
        await asyncio.gather(load, return_exceptions=True)


async def write_endlessly(connection: asyncpg.Connection, task_id: UUID) -> None:
    """Insert changes until the task is cancelled."""
    while True:
        await connection.execute(INSERT_CHANGE, task_id, "writer")
        await asyncio.sleep(0.001)
