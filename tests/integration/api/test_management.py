"""The management port: probes, metrics and the endpoints of the operator."""

from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID

import asyncpg
import httpx
import pytest
import pytest_asyncio
from fastapi import FastAPI
from sqlalchemy.ext.asyncio import AsyncEngine

from task_service.api.management import create_management_app
from task_service.domain.ids import new_id
from task_service.embedded import EmbeddedPostgres
from task_service.migrations import NEEDS, code_revision
from task_service.queue.claims import Bounds, claim
from task_service.store.database import create_engine
from tests.support.problems import check_problem
from tests.support.service_settings import settings_for
from tests.support.task_api import create_task
from tests.support.tasks import add_tasks, add_worker, statuses
from tests.support.tokens import TokenIssuer, write_trust

pytestmark = pytest.mark.asyncio
ISSUER = TokenIssuer()


def client_of(app: FastAPI) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://management")


@pytest_asyncio.fixture
async def management(
    database: str, engine: AsyncEngine, tmp_path: Path
) -> AsyncIterator[httpx.AsyncClient]:
    """Client of the management port with the token of the operator."""
    trust = write_trust(tmp_path / "issuers.json", ISSUER.entry())
    app = create_management_app(settings_for(database, trusted_issuers_file=trust), engine)
    async with client_of(app) as client:
        client.headers["authorization"] = f"Bearer {ISSUER.token()}"
        yield client


async def test_queue_and_workers_have_the_documented_fields(
    management: httpx.AsyncClient, connection: asyncpg.Connection
) -> None:
    worker = await add_worker(connection)
    await add_tasks(connection, 3)
    await claim(connection, worker, Bounds(["default"]), 1, start_at_once=True)
    queue = (await management.get("/internal/queue")).json()
    counts = {"ready": 2, "scheduled": 0, "running": 1, "blocked": 0}
    assert {k: queue[k] for k in counts} == counts
    assert queue["oldest_age_seconds"] > 0
    assert set(queue) == {"at", *counts, "oldest_age_seconds", "queues"}
    assert set(queue["queues"][0]) == {"name", *counts, "oldest_age_seconds"}
    [row] = (await management.get("/internal/workers")).json()["workers"]
    assert (row["id"], row["state"], row["running"]) == (str(worker), "active", 1)
    assert {
        "id", "state", "pod_name", "pod_uid", "container", "slot", "node", "version", "queues", "concurrency",
        "process_started_at", "registered_at", "heartbeat_at", "lease_expires_at", "running",
    } <= set(row)  # fmt: skip


async def test_release_requeues_tasks_and_a_second_release_does_nothing(
    management: httpx.AsyncClient, connection: asyncpg.Connection
) -> None:
    worker = await add_worker(connection)
    ids = await add_tasks(connection, 2)
    await claim(connection, worker, Bounds(["default"]), 2, start_at_once=True)
    url = f"/internal/workers/{worker}/release"
    first = await management.post(url, json={"reason": "oom", "detail": "OOMKilled"})
    assert first.json() == {
        "worker_id": str(worker),
        "released": 2,
        "failed": 0,
        "explained": 0,
        "already_dead": False,
    }
    assert await statuses(connection, ids) == ["pending", "pending"]
    assert {r[0] for r in await connection.fetch("SELECT reason FROM runs")} == {"oom"}
    again = await management.post(url, json={"reason": "oom"})
    assert again.json() == {
        "worker_id": str(worker),
        "released": 0,
        "failed": 0,
        "explained": 0,
        "already_dead": True,
    }


async def test_drain_marks_the_worker_as_draining(
    management: httpx.AsyncClient, connection: asyncpg.Connection
) -> None:
    worker = await add_worker(connection)
    for response in (
        await management.post(f"/internal/workers/{worker}/drain"),
        await management.post(f"/internal/workers/{worker}/drain", json={"reason": "scale_down"}),
    ):
        assert response.json() == {"worker_id": str(worker), "state": "draining"}


async def test_invalid_requests_are_rejected(management: httpx.AsyncClient) -> None:
    for key in (str(new_id()), "x"):
        check_problem(
            await management.post(f"/internal/workers/{key}/release", json={"reason": "crash"}),
            404,
            "not_found",
        )
        check_problem(await management.post(f"/internal/workers/{key}/drain"), 404, "not_found")
    url = f"/internal/workers/{UUID(int=1)}/release"
    for body in (
        {},
        {"reason": "boredom"},
        {"reason": "crash", "detail": "x" * 501},
        {"reason": "crash", "why": 1},
    ):
        check_problem(await management.post(url, json=body), 422, "invalid_field")
    check_problem(
        await management.post(url, json={"reason": "crash", "detail": "x" * 20_000}),
        413,
        "body_too_large",
    )
    check_problem(await management.get("/nothing"), 404, "not_found")
    response = await management.put("/internal/queue")
    check_problem(response, 405, "method_not_allowed")
    assert response.headers["allow"] == "GET"


async def test_internal_routes_accept_only_the_operator(
    management: httpx.AsyncClient, database: str, engine: AsyncEngine
) -> None:
    worker = new_id()
    paths = [("GET", p) for p in ("queue", "workers", "version")]
    paths += [("POST", f"workers/{worker}/release"), ("POST", f"workers/{worker}/drain")]
    closed = client_of(create_management_app(settings_for(database), engine))
    other = {"authorization": f"Bearer {ISSUER.token(sub='system:serviceaccount:a:b')}"}
    for method, path in paths:
        body = {"reason": "crash"} if method == "POST" else None
        refused = await management.request(
            method, f"/internal/{path}", json=body, headers={"authorization": "Bearer x"}
        )
        check_problem(refused, 401, "invalid_token")
        assert refused.headers["www-authenticate"] == 'Bearer error="invalid_token"'
        check_problem(
            await management.request(method, f"/internal/{path}", json=body, headers=other),
            403,
            "forbidden",
        )
        check_problem(
            await closed.request(method, f"/internal/{path}", json=body), 403, "internal_closed"
        )
    await closed.aclose()


async def test_version_shows_code_and_schema_revisions(
    management: httpx.AsyncClient, connection: asyncpg.Connection
) -> None:
    revision = await connection.fetchval("SELECT revision FROM schema_state")
    assert (await management.get("/internal/version")).json() == {
        "version": "0.1.0", "revision": revision, "code_revision": code_revision(), "needs": NEEDS, "oldest_code": 1
    }  # fmt: skip


async def test_metrics_count_requests_by_route_and_created_tasks(
    client: httpx.AsyncClient, management: httpx.AsyncClient
) -> None:
    await create_task(client, handler="noop", queue="counted")
    await client.get("/api/v1/tasks/nothing")
    response = await management.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=")
    lines = response.text.splitlines()
    assert 'task_service_tasks_created_total{handler="noop",queue="counted"} 1.0' in lines
    route = 'task_service_http_request_seconds_count{method="GET",route="/api/v1/tasks/{task_id}",status="404"}'
    assert any(line.startswith(route) for line in lines)


async def test_metrics_show_queue_and_workers_and_work_without_a_database(
    management: httpx.AsyncClient, connection: asyncpg.Connection
) -> None:
    worker = await add_worker(connection)
    await add_tasks(connection, 3, queue="deep")
    await claim(connection, worker, Bounds(["deep"]), 1, start_at_once=True)
    lines = (await management.get("/metrics")).text.splitlines()
    assert 'task_service_queue_tasks{queue="deep",state="ready"} 2.0' in lines
    assert 'task_service_queue_tasks{queue="deep",state="running"} 1.0' in lines
    assert any(
        line.startswith('task_service_queue_oldest_age_seconds{queue="deep"} ') for line in lines
    )
    assert 'task_service_workers{state="active"} 1.0' in lines
    nowhere = create_engine(settings_for("postgresql://postgres@127.0.0.1:1/none"))
    async with client_of(
        create_management_app(settings_for("postgresql://h/x"), nowhere)
    ) as client:
        response = await client.get("/metrics")
    assert response.status_code == 200
    assert 'task_service_queue_tasks{queue="deep"' not in response.text


async def test_process_is_ready_from_a_compatible_schema_until_it_drains(
    database: str, engine: AsyncEngine, connection: asyncpg.Connection
) -> None:
    app = create_management_app(settings_for(database), engine)
    async with client_of(app) as client:
        await connection.execute("UPDATE schema_state SET oldest_code = 99")
        for path in ("/readyz", "/startupz"):
            response = await client.get(path)
            assert response.status_code == 503
            assert "needs version 99 or newer" in response.json()["reason"]
        assert (await client.get("/livez")).json() == {"status": "ok"}
        await connection.execute("UPDATE schema_state SET oldest_code = 1")
        assert [(await client.get(p)).status_code for p in ("/startupz", "/readyz", "/livez")] == [
            200
        ] * 3
        await connection.execute("UPDATE schema_state SET oldest_code = 99")
        assert [(await client.get(p)).status_code for p in ("/startupz", "/readyz", "/livez")] == [
            200
        ] * 3
        app.state.draining = True
        response = await client.get("/readyz")
        assert (response.status_code, response.json()) == (
            503,
            {"status": "unavailable", "reason": "draining"},
        )
        assert response.headers["connection"] == "close"
        assert [(await client.get(p)).status_code for p in ("/startupz", "/livez")] == [200] * 2
        await connection.execute("UPDATE schema_state SET oldest_code = 1")


async def test_probe_names_the_reason_for_an_empty_or_unreachable_database(
    postgres: EmbeddedPostgres,
) -> None:
    for url, why in (
        (postgres.url("postgres"), "never migrated"),
        (postgres.url("missing"), "cannot be reached"),
        ("postgresql://postgres@127.0.0.1:1/x", "cannot be reached"),
    ):
        settings = settings_for(url)
        engine = create_engine(settings)
        async with client_of(create_management_app(settings, engine)) as client:
            response = await client.get("/startupz")
            assert (response.status_code, why in response.json()["reason"]) == (503, True), (
                response.text
            )
        await engine.dispose()


async def test_liveness_probe_fails_when_the_worker_is_stuck(
    database: str, engine: AsyncEngine
) -> None:
    app = create_management_app(
        settings_for(database), engine, why_not_alive=lambda: "the loop has stopped"
    )
    async with client_of(app) as client:
        response = await client.get("/livez")
        assert (response.status_code, response.json()["reason"]) == (503, "the loop has stopped")
