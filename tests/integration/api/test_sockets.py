"""The application behind a real server: chunked bodies, keep-alive, draining and outages."""

import asyncio
import signal
import socket
import time
from collections.abc import AsyncIterator

import asyncpg
import httpx
import pytest
import pytest_asyncio
from fastapi import FastAPI

from task_service.api.app import create_app
from task_service.api.management import create_management_app
from task_service.migrations.upgrade import migrate
from task_service.store.database import create_engine
from tests.support.full_disk import SET_FULL_TABLES, SIMULATE_FULL_DISK
from tests.support.http_servers import bare_server
from tests.support.problems import check_problem
from tests.support.service_settings import settings_for
from tests.support.stoppable_database import StoppableDatabase
from tests.support.task_api import TASKS, create_task
from tests.support.tasks import quiet_wakeups

pytestmark = pytest.mark.asyncio
POST = b"POST /api/v1/tasks HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"


@pytest_asyncio.fixture
async def port(app: FastAPI) -> AsyncIterator[int]:
    async with bare_server(app) as server:
        yield server.config.port


def read_head(client: socket.socket) -> bytes:
    """Read one complete response and return its head."""
    stream = client.makefile("rb")
    head = b"".join(iter(stream.readline, b"\r\n"))
    stream.read(int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]))
    return head


async def exchange(port: int, *pieces: bytes) -> tuple[bytes, bool]:
    """Send pieces on a new connection; return the first response and whether the server closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for piece in pieces:
        writer.write(piece)
        await writer.drain()
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    body = await reader.readexactly(length)
    closed = b"connection: close" in head.lower()
    if closed:
        assert await reader.read() == b""
    writer.close()
    return head + body, closed


async def test_chunked_body_over_the_limit_is_rejected_before_its_end(port: int) -> None:
    start = POST + b"transfer-encoding: chunked\r\n\r\n"
    chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    response, closed = await exchange(
        port, start, *[chunk] * 17
    )  # 17 * 64 KiB; the end never comes
    assert response.startswith(b"HTTP/1.1 413")
    assert b"body_too_large" in response
    assert closed


async def test_content_length_over_the_limit_is_rejected_before_the_body(port: int) -> None:
    start = b"POST /api/v1/tasks HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 2000000\r\n\r\n"
    response, closed = await exchange(port, start)
    assert response.startswith(b"HTTP/1.1 413")
    assert closed


async def test_connections_stay_open_until_the_server_drains(app: FastAPI, port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for draining in (False, False, True):
        app.state.draining = draining
        writer.write(b"GET /api/v1/tasks HTTP/1.1\r\nhost: x\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        assert (b"connection: close" in head) is draining
        await reader.readexactly(int(head.split(b"content-length: ")[1].split(b"\r\n")[0]))
    assert await reader.read() == b""
    writer.close()
    assert (await exchange(port, b"GET /api/v1/tasks HTTP/1.1\r\nhost: x\r\n\r\n"))[1]


async def test_request_that_arrives_during_shutdown_is_handled(app: FastAPI) -> None:
    """The request is unread in the kernel when the server closes; the client must not be reset."""
    request = b"GET /api/v1/tasks HTTP/1.1\r\nhost: x\r\n\r\n"
    async with bare_server(app) as server:
        client = socket.create_connection(("127.0.0.1", server.config.port))
        client.sendall(request)
        assert (await asyncio.to_thread(read_head, client)).startswith(b"HTTP/1.1 200")
        app.state.draining = True
        client.sendall(request)  # the server cannot read it before the next await
        await server.shutdown()
        head = await asyncio.to_thread(read_head, client)
        assert head.startswith(b"HTTP/1.1 200")
        assert b"connection: close" in head
        client.close()


async def test_large_list_of_service_c_is_sent_in_chunks(
    port: int, connection: asyncpg.Connection
) -> None:
    many = "SELECT gen_random_uuid(), 'a', 'pending' FROM generate_series(1, 1200)"
    await connection.execute(f"INSERT INTO tasks (id, title, status) {many}")
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        response = await client.get("/tasks/")
    assert response.headers["transfer-encoding"] == "chunked"
    assert len(response.json()) == 1200


@pytest.mark.parametrize("mode", [signal.SIGINT, signal.SIGQUIT], ids=["shut down", "crashed"])
async def test_requests_return_503_while_the_database_is_down(
    stoppable_database: StoppableDatabase, mode: signal.Signals
) -> None:
    settings = settings_for(stoppable_database.url, db_pool_timeout_seconds=1)
    engine = create_engine(settings)
    await migrate(engine)
    app, management = (
        create_app(settings, engine, quiet_wakeups()),
        create_management_app(settings, engine),
    )
    async with (
        bare_server(app) as server_of_api,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{server_of_api.config.port}") as client,
        httpx.AsyncClient(
            transport=httpx.ASGITransport(management), base_url="http://management"
        ) as probes,
    ):
        task = await create_task(client, handler="noop")
        assert (await probes.get("/readyz")).status_code == 200
        await asyncio.to_thread(stoppable_database.stop, mode)
        for method, path, body in (
            ("GET", TASKS, None), ("GET", f"{TASKS}/{task['id']}", None), ("POST", TASKS, {"title": "a"}),
            ("PATCH", f"{TASKS}/{task['id']}", {"title": "b"}), ("GET", "/tasks/", None), ("GET", "/health", None),
            ("DELETE", f"{TASKS}/{task['id']}", None),
        ):  # fmt: skip
            begun = time.monotonic()
            response = await client.request(method, path, json=body)
            problem = check_problem(response, 503, "unavailable")
            assert response.headers["retry-after"] == "1"
            assert "127.0.0.1" not in problem["detail"]
            assert time.monotonic() - begun < 2.5
        assert [(await probes.get(p)).status_code for p in ("/readyz", "/livez", "/startupz")] == [
            200
        ] * 3
        await asyncio.to_thread(stoppable_database.start)
        assert (await client.get(f"{TASKS}/{task['id']}")).json() == task
        assert (await client.patch(f"{TASKS}/{task['id']}", json={"title": "b"})).status_code == 200
    await engine.dispose()


async def test_database_that_was_never_migrated_returns_503(
    stoppable_database: StoppableDatabase,
) -> None:
    settings = settings_for(stoppable_database.url)
    engine = create_engine(settings)
    app = create_app(settings, engine, quiet_wakeups())
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://service"
    ) as client:
        for response in (await client.get(TASKS), await client.post(TASKS, json={"title": "a"})):
            assert "task-service migrate" in check_problem(response, 503, "unavailable")["detail"]
    await engine.dispose()


async def test_database_without_disk_space_returns_503(
    database: str, connection: asyncpg.Connection
) -> None:
    engine = create_engine(settings_for(database))
    app = create_app(settings_for(database), engine, quiet_wakeups())
    await connection.execute(SIMULATE_FULL_DISK)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://service"
    ) as client:
        task = await create_task(client)
        await connection.execute(SET_FULL_TABLES, ["tasks"])
        for response in (
            await client.post(TASKS, json={"title": "a"}),
            await client.delete(f"{TASKS}/{task['id']}"),
        ):
            assert "disk space" in check_problem(response, 503, "unavailable")["detail"]
            assert response.headers["retry-after"] == "1"
        assert (await client.get(f"{TASKS}/{task['id']}")).json() == task
    await engine.dispose()


async def test_exhausted_connection_pool_returns_503_after_the_timeout(
    database: str,
) -> None:
    settings = settings_for(
        database, db_pool_size=1, db_max_overflow=0, db_pool_timeout_seconds=0.3
    )
    engine = create_engine(settings)
    app = create_app(settings, engine, quiet_wakeups())
    async with (
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service") as client,
        engine.connect(),
    ):
        begun = time.monotonic()
        check_problem(await client.get(TASKS), 503, "unavailable")
        assert 0.3 <= time.monotonic() - begun < 2
    await engine.dispose()


async def test_statement_timeout_returns_503(database: str, connection: asyncpg.Connection) -> None:
    settings = settings_for(database, db_statement_timeout_seconds=0.3)
    engine = create_engine(settings)
    app = create_app(settings, engine, quiet_wakeups())
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://service"
    ) as client:
        task = await create_task(client)
        async with connection.transaction():
            await connection.execute("SELECT FROM tasks FOR UPDATE")
            response = await client.patch(f"{TASKS}/{task['id']}", json={"title": "b"})
        assert "too long" in check_problem(response, 503, "unavailable")["detail"]
        assert (await client.patch(f"{TASKS}/{task['id']}", json={"title": "b"})).status_code == 200
    await engine.dispose()
