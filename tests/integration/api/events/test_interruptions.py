"""Streams during restarts, lost connections, stalled clients and shutdown."""

import asyncio
import contextlib
import signal
import time

import asyncpg
import httpx
import pytest
from fastapi import FastAPI

from task_service.api.http import sse
from task_service.migrations.upgrade import migrate
from task_service.settings import Settings
from task_service.store.database import create_engine
from task_service.telemetry.metrics import EVENT_STREAMS
from tests.support.api_process import api_processes
from tests.support.event_streams import (
    EVENTS,
    add_task,
    default_lease_settings,
    holds,
    stalled_client,
    wait_for_no_streams,
)
from tests.support.http_servers import api_instance
from tests.support.pooler import transaction_pooler
from tests.support.problems import check_problem
from tests.support.sse import open_stream
from tests.support.stoppable_database import StoppableDatabase
from tests.support.task_api import TASKS, create_task
from tests.support.waiting import eventually

pytestmark = pytest.mark.asyncio
INSERT_LONG_CHANGES = """
    INSERT INTO task_history (task_id, new_status, reason)
    SELECT $1, 'pending', repeat('x', 500) FROM generate_series(1, $2::integer)
"""
READER_SESSIONS = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND query LIKE '%xmin%' AND pid <> pg_backend_pid()
"""


async def test_history_of_a_restored_dump_is_not_sent_to_live_streams(
    api: httpx.AsyncClient, url: str, connection: asyncpg.Connection, app: FastAPI
) -> None:
    task = await create_task(api)
    await connection.execute("UPDATE task_history SET transaction_id = '7000000000'")
    async with open_stream(url + EVENTS, "0") as stream:
        await migrate(app.state.transactions.engine)
        await create_task(api)
        await stream.wait_for_count(1)
        assert task["id"] not in [event for event, _ in stream.summaries()]
    async with open_stream(url + EVENTS, "0") as stream:
        await stream.wait_for_count(2)
        assert stream.summaries()[0] == (task["id"], "created")


async def test_lost_listener_is_replaced_without_losing_events(
    api: httpx.AsyncClient, url: str, connection: asyncpg.Connection
) -> None:
    async with open_stream(url + EVENTS) as stream:
        await create_task(api)
        await stream.wait_for_count(1)
        lost = await connection.fetchval(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        assert lost >= 1
        ids = []
        for _ in range(3):
            response = await api.post(TASKS, json={"title": "a"})
            if response.status_code == 201:
                ids.append(response.json()["id"])
        assert ids
        await stream.wait_for_count(1 + len(ids))
        assert [name for name, _ in stream.summaries()][1:] == ids


async def test_queue_notifications_wake_streams(settings: Settings) -> None:
    slow_polls = settings.model_copy(update={"event_poll_seconds": 60})
    async with (
        api_instance(slow_polls) as url,
        httpx.AsyncClient(base_url=url) as api,
        open_stream(url + EVENTS) as stream,
    ):

        async def received() -> bool:
            await create_task(api, handler="noop")
            return bool(stream.messages)

        await eventually("an event without a poll", received)


async def test_every_event_arrives_through_a_pooler_without_listen(database: str) -> None:
    with transaction_pooler(database) as pooled:
        settings = default_lease_settings(pooled, database_pooler=True)
        async with api_instance(settings) as url, httpx.AsyncClient(base_url=url) as api:

            async def is_ready() -> bool:
                return (await api.get(TASKS)).status_code == 200

            await eventually("the first response through the pooler", is_ready)
            async with open_stream(url + EVENTS) as stream:
                ids = [(await create_task(api, handler="noop"))["id"] for _ in range(20)]
                await stream.wait_for_count(20)
                assert [task for task, _ in stream.summaries()] == ids


@pytest.mark.parametrize("mode", [signal.SIGINT, signal.SIGQUIT], ids=["shut down", "crashed"])
async def test_stream_survives_a_restart_of_the_database(
    stoppable_database: StoppableDatabase, mode: signal.Signals
) -> None:
    settings = default_lease_settings(stoppable_database.url)
    engine = create_engine(settings)
    await migrate(engine)
    await engine.dispose()
    async with (
        api_instance(settings) as url,
        httpx.AsyncClient(base_url=url) as api,
        open_stream(url + EVENTS) as stream,
    ):
        before = await create_task(api)
        await stream.wait_for_count(1)
        await asyncio.to_thread(stoppable_database.stop, mode)
        check_problem(await api.get(EVENTS), 503, "unavailable")
        await asyncio.to_thread(stoppable_database.start)
        after = await create_task(api)
        await stream.wait_for_count(2)
        assert stream.summaries() == [(before["id"], "created"), (after["id"], "created")]
        async with open_stream(url + EVENTS, stream.messages[0].id) as again:
            await again.wait_for_count(1)
            assert again.messages == stream.messages[1:]


async def test_stalled_client_is_disconnected_and_can_resume(
    app: FastAPI,
    url: str,
    connection: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sse, "SEND_SECONDS", 0.3)
    task_id = await add_task(connection)
    async with open_stream(url + EVENTS) as stream:
        last = stream.last_id
    reader, writer = await stalled_client(url, last)
    await connection.execute(INSERT_LONG_CHANGES, task_id, 30_000)
    await eventually("a stream", lambda: holds(bool(app.state.events._streams)))
    await wait_for_no_streams(app)
    received_bytes = 0
    with contextlib.suppress(ConnectionError):
        while piece := await asyncio.wait_for(reader.read(65536), 10):
            received_bytes += len(piece)
    assert received_bytes < 15_000_000
    writer.close()
    async with open_stream(url + EVENTS, last) as stream:
        await stream.wait_for_count(30_000, 60)
    assert len({m.id for m in stream.messages}) == 30_000


async def test_number_of_streams_is_limited(settings: Settings) -> None:
    limited = settings.model_copy(update={"event_streams_max": 2})
    async with (
        api_instance(limited) as url,
        httpx.AsyncClient(base_url=url) as api,
        open_stream(url + EVENTS),
    ):
        async with open_stream(url + EVENTS):
            response = await api.get(EVENTS)
            check_problem(response, 503, "unavailable")
            assert response.headers["retry-after"]

        async def has_free_slot() -> bool:
            async with open_stream(url + EVENTS) as stream:
                return stream.response.status_code == 200

        await eventually("a free slot", has_free_slot)


async def test_database_is_not_polled_without_streams(
    app: FastAPI, url: str, connection: asyncpg.Connection
) -> None:
    async with open_stream(url + EVENTS):
        await eventually(
            "the reader's connection", lambda: holds(app.state.events._connection is not None)
        )
        assert EVENT_STREAMS._value.get() == 1
    await wait_for_no_streams(app)
    await eventually(
        "the end of the reader's connection",
        lambda: holds(app.state.events._connection is None),
    )
    await app.state.transactions.engine.dispose()

    async def is_closed() -> bool:
        return not await connection.fetchval(READER_SESSIONS)

    await eventually("the end of the reader's session", is_closed)
    assert EVENT_STREAMS._value.get() == 0


async def test_open_streams_do_not_delay_shutdown(
    database: str, connection: asyncpg.Connection
) -> None:
    with api_processes(database_url=database, auth_mode="open") as [process]:
        events_url = process.url + EVENTS
        task_id = await add_task(connection)
        async with contextlib.AsyncExitStack() as stack:
            filters: list[dict[str, str]] = [{}, *[{"event": "task.deleted"}] * 20]
            streams = [
                await stack.enter_async_context(open_stream(events_url, **f)) for f in filters
            ]
            _, writer = await stalled_client(process.url, "0")
            await connection.execute(INSERT_LONG_CHANGES, task_id, 20_000)
            await streams[0].wait_for_count(20_000, 60)
            begun = time.monotonic()
            process.process.terminate()
            assert await asyncio.to_thread(process.process.wait, 20) == 0
            # uvicorn alone would wait for SHUTDOWN_SECONDS (30)
            assert time.monotonic() - begun < 10
            for stream in streams:
                await asyncio.wait_for(stream.ended.wait(), 5)
                assert not stream.error  # the last chunk arrived
            writer.close()
