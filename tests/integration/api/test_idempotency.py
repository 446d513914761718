"""`Idempotency-Key`: a repeated request runs once and gets the first response again."""

import asyncio
from collections import Counter
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import pytest
from fastapi import FastAPI, Request, Response
from sqlalchemy.ext.asyncio import AsyncEngine

from task_service.api.app import create_app
from task_service.api.http.idempotency import Idempotent, IdempotentRequest
from task_service.domain.permissions import Role
from task_service.domain.principals import ANONYMOUS, Principal
from task_service.queue.wakeups import Wakeups
from task_service.services.single_flight import SingleFlight
from task_service.services.transactions import Transaction, TransactionManager
from task_service.settings import Settings
from task_service.store.database import create_engine
from task_service.store.idempotency import prune_keys
from tests.support.database_rows import count_rows
from tests.support.http_servers import bare_server
from tests.support.problems import check_problem
from tests.support.secured_app import SecuredApp
from tests.support.task_api import TASKS, create_task
from tests.support.tasks import quiet_wakeups

pytestmark = pytest.mark.asyncio
KEYS = "SELECT count(*) FROM idempotency_keys"
WITHOUT_CREATION = (
    ":cancel", ":retry", ":redrive", ":pause", ":resume", ":release", ":drain", "daily-log:run",
    "/auth/token", "/auth/refresh", "/auth/logout", "/auth/password", "/compat/d/token", "/compat/d/login",
)  # fmt: skip
"""Suffixes of the POST paths that create nothing by which a second run would show."""
UNIQUE_BY_NAME = "/users"
"""Accepts no key: usernames are unique, so the second request returns 409."""
COUNT_CREATED = "SELECT " + " + ".join(
    f"(SELECT count(*) FROM {table})"
    for table in ("tasks", "conversations", "settings", "schedules", "imports")
)


def key(name: str | None = None) -> dict[str, str]:
    """Return the header with this key, or with a new one."""
    return {"Idempotency-Key": name or uuid4().hex}


async def test_repeated_request_gets_the_first_response(
    client: httpx.AsyncClient, connection: asyncpg.Connection
) -> None:
    name = key()
    first = await client.post(TASKS, json={"title": "a", "tags": ["ü"]}, headers=name)
    again = await client.post(TASKS, json={"title": "a", "tags": ["ü"]}, headers=name)
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.content == first.content
    for header in ("location", "etag", "content-type"):
        assert again.headers[header] == first.headers[header]
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert await count_rows(connection) == 1


async def test_first_response_is_repeated_even_after_the_task_changed(
    client: httpx.AsyncClient,
) -> None:
    name = key()
    first = await client.post(TASKS, json={"title": "a"}, headers=name)
    await client.patch(first.headers["location"], json={"title": "b"})
    again = await client.post(TASKS, json={"title": "a"}, headers=name)
    assert again.json()["title"] == "a"


@pytest.mark.parametrize(
    ("path", "body"),
    [(TASKS, {"title": "b"}), (TASKS, {"title": "a", "tags": []})],
    ids=["another title", "the same meaning, written differently"],
)
async def test_different_request_with_the_same_key_returns_422(
    client: httpx.AsyncClient, connection: asyncpg.Connection, path: str, body: dict[str, Any]
) -> None:
    name = key()
    await client.post(TASKS, json={"title": "a"}, headers=name)
    check_problem(await client.post(path, json=body, headers=name), 422, "idempotency_conflict")
    assert await count_rows(connection) == 1


async def test_same_key_for_another_task_returns_422(client: httpx.AsyncClient) -> None:
    name, one, other = key(), await create_task(client), await create_task(client)
    assert (await client.post(f"{TASKS}/{one['id']}:cancel", headers=name)).status_code == 200
    check_problem(
        await client.post(f"{TASKS}/{other['id']}:cancel", headers=name),
        422,
        "idempotency_conflict",
    )
    assert (await client.get(f"{TASKS}/{other['id']}")).json()["status"] == "pending"


async def test_key_belongs_to_its_route(client: httpx.AsyncClient) -> None:
    name, task = key(), await create_task(client)
    assert (await client.post(TASKS, json={"title": "a"}, headers=name)).status_code == 201
    cancelled = await client.post(f"{TASKS}/{task['id']}:cancel", headers=name)
    retried = await client.post(f"{TASKS}/{task['id']}:retry", headers=name)
    assert (cancelled.json()["status"], retried.json()["status"]) == ("cancelled", "pending")
    assert "idempotency-replayed" not in retried.headers
    again = await client.post(f"{TASKS}/{task['id']}:cancel", headers=name)
    assert again.json()["status"] == "cancelled"
    assert (await client.get(f"{TASKS}/{task['id']}")).json()["status"] == "pending"


async def test_failed_request_stores_no_key(
    client: httpx.AsyncClient, connection: asyncpg.Connection
) -> None:
    name, task = key(), await create_task(client, status="completed")
    path = f"{TASKS}/{task['id']}:cancel"
    check_problem(await client.post(path, headers=name), 409, "invalid_transition")
    check_problem(await client.post(TASKS, json={"title": ""}, headers=name), 422, "invalid_field")
    assert await connection.fetchval(KEYS) == 0
    assert (
        await client.patch(f"{TASKS}/{task['id']}", json={"status": "pending"})
    ).status_code == 200
    assert (await client.post(path, headers=name)).json()["status"] == "cancelled"


async def test_error_response_stores_no_key(
    app: FastAPI, client: httpx.AsyncClient, connection: asyncpg.Connection
) -> None:
    @app.post("/refusing")
    async def refuse(request: Idempotent) -> Response:
        return await request.write(change_nothing, lambda _: Response(status_code=409))

    assert (await client.post("/refusing", headers=key())).status_code == 409
    assert await connection.fetchval(KEYS) == 0


@pytest.mark.parametrize("name", ["", "x" * 256, "two words", "tab\there", "é"])
async def test_invalid_key_returns_422_and_names_the_header(
    client: httpx.AsyncClient, name: str
) -> None:
    headers = [(b"idempotency-key", name.encode("latin-1"))]
    response = await client.post(TASKS, json={"title": "a"}, headers=headers)
    problem = check_problem(response, 422, "invalid_field")
    assert [error["field"] for error in problem["errors"]] == ["idempotency-key"]


@pytest.mark.parametrize("name", ["x", "!~" * 127 + "~"])
async def test_key_has_up_to_255_visible_characters(client: httpx.AsyncClient, name: str) -> None:
    assert (await client.post(TASKS, json={"title": "a"}, headers=key(name))).status_code == 201


def idempotent_request(
    transactions: TransactionManager, caller: Principal, name: str
) -> IdempotentRequest:
    """Return the request of a caller as the routes receive it."""

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"the same"}

    scope: dict[str, Any] = {
        "type": "http",
        "path": "/x",
        "query_string": b"",
        "headers": [],
        "route": None,
    }
    return IdempotentRequest(transactions, SingleFlight(), caller, Request(scope, receive), name)


async def change_nothing(_: Transaction) -> None:
    """Change nothing."""


async def test_key_belongs_to_its_caller(
    settings: Settings, engine: AsyncEngine, wakeups: Wakeups
) -> None:
    transactions = TransactionManager(settings, engine, wakeups)
    ada, bob = (
        Principal("ada", Role.EDITOR, "user", uuid4()),
        Principal("bob", Role.EDITOR, "user", uuid4()),
    )
    renamed = Principal("countess", Role.EDITOR, "user", ada.user_id)
    foreign = Principal("ada", Role.EDITOR, "issuer")

    async def run(caller: Principal) -> tuple[bytes, bool]:
        response = await idempotent_request(transactions, caller, "k").write(
            change_nothing, lambda _: Response(caller.name)
        )
        return bytes(response.body), "idempotency-replayed" in response.headers

    seen = [await run(caller) for caller in (ada, bob, foreign, ANONYMOUS, renamed, ANONYMOUS)]
    assert seen == [
        (b"ada", False), (b"bob", False), (b"ada", False), (b"anonymous", False),
        (b"ada", True), (b"anonymous", True),
    ]  # fmt: skip


async def test_expired_key_is_ignored_and_pruned(
    client: httpx.AsyncClient, connection: asyncpg.Connection
) -> None:
    name = key()
    first = await client.post(TASKS, json={"title": "a"}, headers=name)
    await connection.execute(
        "UPDATE idempotency_keys SET created_at = now() - interval '23 h 59 min'"
    )
    assert (await client.post(TASKS, json={"title": "a"}, headers=name)).json() == first.json()
    await connection.execute("UPDATE idempotency_keys SET created_at = now() - interval '24 h 1 s'")
    later = await client.post(TASKS, json={"title": "b"}, headers=name)
    assert (later.status_code, await count_rows(connection)) == (201, 2)
    old = (
        "SELECT 'a', 'b', n::text, 'd', now() - interval '25 h' FROM generate_series(1, 2500) AS n"
    )
    await connection.execute(
        f"INSERT INTO idempotency_keys (caller, route, key, digest, created_at) {old}"
    )
    assert await prune_keys(connection, 24) == 2500
    assert await connection.fetchval(KEYS) == 1


async def test_rollback_leaves_neither_task_nor_key(
    client: httpx.AsyncClient, connection: asyncpg.Connection
) -> None:
    name = key()
    async with (
        connection.transaction()
    ):  # holds up the change: the request has claimed its key, and made its task
        await connection.execute("LOCK TABLE task_history IN ACCESS EXCLUSIVE MODE")
        hanging = asyncio.create_task(client.post(TASKS, json={"title": "a"}, headers=name))
        while not (victim := await connection.fetchval(WAITING)):
            await asyncio.sleep(0)
        await connection.execute("SELECT pg_terminate_backend($1)", victim)
        check_problem(await hanging, 503, "unavailable")
    assert (await count_rows(connection), await connection.fetchval(KEYS)) == (0, 0)
    again = await client.post(TASKS, json={"title": "a"}, headers=name)
    assert (again.status_code, "idempotency-replayed" in again.headers) == (201, False)


WAITING = "SELECT pid FROM pg_locks WHERE NOT granted AND relation = 'task_history'::regclass"


async def test_thousand_concurrent_creates_with_one_key_create_one_task(
    settings: Settings, connection: asyncpg.Connection
) -> None:
    patient = settings.model_copy(
        update={"db_pool_timeout_seconds": 60, "db_statement_timeout_seconds": 60}
    )
    engines = [create_engine(patient) for _ in range(2)]
    apps = [create_app(patient, engine, quiet_wakeups()) for engine in engines]
    for engine in engines:
        async with engine.connect():  # before a thousand sockets keep the loop busy
            pass
    async with bare_server(apps[0]) as one, bare_server(apps[1]) as other:
        ports = [server.config.port for server in (one, other)]
        responses = await asyncio.gather(
            *(send_create(ports[n % 2], "the-key") for n in range(1000))
        )
    for engine in engines:
        await engine.dispose()
    assert Counter(response.status_code for response in responses) == {201: 1000}
    assert len({response.content for response in responses}) == 1
    assert (
        len({(response.headers["location"], response.headers["etag"]) for response in responses})
        == 1
    )
    assert sum("idempotency-replayed" not in response.headers for response in responses) == 1
    assert (await count_rows(connection), await connection.fetchval(KEYS)) == (1, 1)


async def send_create(port: int, name: str) -> httpx.Response:
    """Send one request over a new connection; httpx takes minutes to queue a thousand."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"POST {TASKS} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nidempotency-key: {name}\r\n"
    writer.write(head.encode() + b'content-length: 13\r\n\r\n{"title":"a"}')
    response, body = (await reader.read()).split(b"\r\n\r\n", 1)
    writer.close()
    first, *lines = response.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    return httpx.Response(int(first.split()[1]), headers=headers, content=body)


async def test_requests_that_wait_in_the_database_get_the_first_response(
    settings: Settings, connection: asyncpg.Connection
) -> None:
    engines = [create_engine(settings) for _ in range(8)]
    managers = [TransactionManager(settings, engine, quiet_wakeups()) for engine in engines]
    release = asyncio.Event()

    async def change(_: Transaction) -> str:
        await release.wait()
        return uuid4().hex

    sent = [
        asyncio.create_task(idempotent_request(manager, ANONYMOUS, "k").write(change, Response))
        for manager in managers
    ]
    waiting = "SELECT count(*) = 7 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    while not await connection.fetchval(waiting):
        await asyncio.sleep(0)
    release.set()
    assert len({bytes(response.body) for response in await asyncio.gather(*sent)}) == 1
    for engine in engines:
        await engine.dispose()


async def create_with_key(client: httpx.AsyncClient, path: str, name: str) -> httpx.Response:
    """Request the creation of one object at this path; the key is also part of its content."""
    plain = path.rstrip("/")
    if plain.endswith(("upload-csv", ":import")):
        return await client.post(
            path, files={"file": ("t.csv", f"title\n{name}\n", "text/csv")}, headers=key(name)
        )
    bodies: dict[str, Any] = {
        ":batch": {"tasks": [{"title": name}, {"title": name}]}, ":run": None, "/conversations": {"body": name},
        "/settings": {"key": name, "value": 1},
        "/schedules": {"name": name, "cron": "0 8 * * *", "template": {"title": name}},
    }  # fmt: skip
    body = next((body for end, body in bodies.items() if plain.endswith(end)), {"title": name})
    return await client.post(path, json=body, headers=key(name))


async def test_every_creating_route_runs_once_per_key(
    secured: SecuredApp, connection: asyncpg.Connection
) -> None:
    paths = [
        r.path for router in secured.app.state.routers for r in router.routes if "POST" in r.methods
    ]
    creating_paths = [
        path for path in paths if not path.rstrip("/").endswith((*WITHOUT_CREATION, UNIQUE_BY_NAME))
    ]
    assert len(creating_paths) >= 30
    async with secured.client(secured.token(await secured.register("root", Role.ADMIN))) as client:
        schedule = (await create_with_key(client, "/api/v1/schedules", "a-schedule")).json()["id"]
        ids = {"task_id": (await create_task(client))["id"], "schedule_id": schedule}
        for number, path in enumerate(creating_paths):
            before, responses, counts = await connection.fetchval(COUNT_CREATED), [], []
            for _ in range(2):
                responses.append(await create_with_key(client, path.format(**ids), f"key-{number}"))
                counts.append(await connection.fetchval(COUNT_CREATED))
            first, again = responses
            assert first.is_success, (path, first.text)
            assert before < counts[0] == counts[1], path
            assert (again.status_code, again.content) == (first.status_code, first.content), path
            assert again.headers.get("idempotency-replayed") == "true", path
