"""Queues and workers over the API: figures, pause, release and drain."""

import asyncio
from uuid import UUID

import asyncpg
import httpx
import pytest
import pytest_asyncio

from task_service.queue import workers
from task_service.queue.claims import Bounds, claim, claim_alone
from task_service.store import queues as store
from tests.support.problems import check_field_error, check_problem
from tests.support.tasks import add_tasks, add_worker, statuses

pytestmark = pytest.mark.asyncio


@pytest_asyncio.fixture
async def worker(connection: asyncpg.Connection) -> UUID:
    """Worker that is only a row."""
    return await add_worker(connection)


async def claim_queues(
    connection: asyncpg.Connection, worker: UUID, queues: list[str] | None = None
) -> list[str]:
    """Claim all tasks for the worker and return their queues."""
    found = await claim(
        connection, worker, Bounds(queues or ["default", "mail"]), 100, start_at_once=True
    )
    return [c.queue for c in found]


async def test_paused_queue_is_not_claimed_until_it_is_resumed(
    client: httpx.AsyncClient, connection: asyncpg.Connection, worker: UUID
) -> None:
    await add_tasks(connection, 2)
    await add_tasks(connection, 1, queue="mail")
    paused = await client.post("/api/v1/queues/default:pause", json={"reason": "database upgrade"})
    assert paused.status_code == 200, paused.text
    body = paused.json()
    assert (body["paused"], body["paused_reason"], body["paused_by"]) == (
        True,
        "database upgrade",
        "anonymous",
    )
    assert await claim_queues(connection, worker) == ["mail"]
    await add_tasks(connection, 1)  # tasks can still be created
    assert (await client.get("/api/v1/queues/default")).json()["ready"] == 3
    resumed = await client.post("/api/v1/queues/default:resume")
    assert (resumed.json()["paused"], resumed.json()["paused_at"]) == (False, None)
    assert await claim_queues(connection, worker) == ["default"] * 3


async def test_task_that_must_run_alone_waits_in_a_paused_queue(
    client: httpx.AsyncClient, connection: asyncpg.Connection, worker: UUID
) -> None:
    await add_tasks(connection, 1)
    await connection.execute("UPDATE queue SET alone = true")
    await client.post("/api/v1/queues/default:pause")
    assert await claim_alone(connection, worker, ["default"], 0) is None
    await client.post("/api/v1/queues/default:resume")
    assert await claim_alone(connection, worker, ["default"], 0) is not None


async def test_pause_and_resume_are_idempotent(client: httpx.AsyncClient) -> None:
    first = (await client.post("/api/v1/queues/mail:pause", json={"reason": "a"})).json()
    again = (await client.post("/api/v1/queues/mail:pause")).json()
    assert (again["paused_at"], again["paused_reason"]) == (first["paused_at"], "a")
    for _ in range(2):
        assert (await client.post("/api/v1/queues/mail:resume")).json()["paused"] is False
    parallel = await asyncio.gather(*(client.post("/api/v1/queues/mail:pause") for _ in range(8)))
    assert {a.status_code for a in parallel} == {200}


async def test_resume_notifies_the_workers_of_the_queue(
    client: httpx.AsyncClient, connection: asyncpg.Connection
) -> None:
    notifications: asyncio.Queue[object] = asyncio.Queue()
    await connection.add_listener(
        "task_service_queue", lambda *args: notifications.put_nowait(args[-1])
    )
    await client.post("/api/v1/queues/mail:pause")
    await client.post("/api/v1/queues/mail:resume")
    assert await asyncio.wait_for(notifications.get(), 10) == "mail"


async def test_running_tasks_of_a_paused_queue_continue(
    client: httpx.AsyncClient, connection: asyncpg.Connection, worker: UUID
) -> None:
    await add_tasks(connection, 1)
    assert await claim_queues(connection, worker) == ["default"]
    body = (await client.post("/api/v1/queues/default:pause")).json()
    assert (body["running"], body["ready"]) == (1, 0)


async def test_list_includes_paused_queues_without_tasks(
    client: httpx.AsyncClient, connection: asyncpg.Connection
) -> None:
    await add_tasks(connection, 2)
    await client.post("/api/v1/queues/empty:pause")
    body = (await client.get("/api/v1/queues")).json()
    assert [(q["name"], q["ready"], q["paused"]) for q in body["queues"]] == [
        ("default", 2, False),
        ("empty", 0, True),
    ]
    assert body["ready"] == 2


async def test_rates_are_averages_over_the_last_minute(
    client: httpx.AsyncClient, connection: asyncpg.Connection, worker: UUID
) -> None:
    await add_tasks(connection, 30)
    await connection.execute(
        "UPDATE tasks SET created_at = now() - interval '1 hour' WHERE number % 2 = 0"
    )
    await connection.execute(
        "INSERT INTO runs (task_id, fence, attempt, outcome, final, finished_at) "
        "SELECT id, 1, 1, 'completed', true, CASE WHEN number <= 6 THEN now() ELSE now() - interval '2 minutes' END "
        "FROM tasks WHERE number <= 12"
    )
    await connection.execute("DELETE FROM queue WHERE task_id IN (SELECT task_id FROM runs)")
    body = (await client.get("/api/v1/queues/default")).json()
    assert body["arrivals_per_second"] == pytest.approx(15 / 60)
    assert body["completions_per_second"] == pytest.approx(6 / 60)
    other = (await client.get("/api/v1/queues/other")).json()
    assert (other["arrivals_per_second"], other["completions_per_second"], other["ready"]) == (
        0,
        0,
        0,
    )


async def test_rates_are_read_by_index(large_database: asyncpg.Connection) -> None:
    plan = await large_database.fetch(f"EXPLAIN {store.RATES}", "default", 60.0, 100)
    text = "\n".join(row[0] for row in plan)
    assert "Seq Scan" not in text and "tasks_created_at" in text and "runs_finished_at" in text, (
        text
    )


async def test_invalid_names_and_reasons_are_rejected(client: httpx.AsyncClient) -> None:
    for name in ("a b", "%00", "\u00e4", "x" * 101, "-a"):
        check_field_error(await client.post(f"/api/v1/queues/{name}:pause"), "name")
        check_field_error(await client.get(f"/api/v1/queues/{name}"), "name")
    check_field_error(
        await client.post("/api/v1/queues/a:pause", json={"reason": "x" * 501}), "reason"
    )
    check_field_error(await client.post("/api/v1/queues/a:pause", json={"why": "x"}), "why")


async def test_worker_is_read_by_id(client: httpx.AsyncClient, worker: UUID) -> None:
    body = (await client.get(f"/api/v1/workers/{worker}")).json()
    assert (body["id"], body["state"], body["expired"], body["running"]) == (
        str(worker),
        "active",
        False,
        0,
    )
    for key in ("0195d6a2-8c4f-7a3e-9a51-3f6f2d1c0b4a", "nonsense"):
        check_problem(await client.get(f"/api/v1/workers/{key}"), 404, "not_found")
        check_problem(await client.post(f"/api/v1/workers/{key}:release"), 404, "not_found")
        check_problem(await client.post(f"/api/v1/workers/{key}:drain"), 404, "not_found")


async def test_live_worker_is_released_only_with_force(
    client: httpx.AsyncClient, connection: asyncpg.Connection, worker: UUID
) -> None:
    tasks = await add_tasks(connection, 2)
    await claim_queues(connection, worker)
    refused = check_problem(await client.post(f"/api/v1/workers/{worker}:release"), 409, "conflict")
    assert "force=true" in refused["detail"]
    assert await statuses(connection, tasks) == ["processing"] * 2
    forced = await client.post(
        f"/api/v1/workers/{worker}:release", params={"force": True}, json={"reason": "node"}
    )
    assert forced.json() == {
        "worker_id": str(worker),
        "released": 2,
        "failed": 0,
        "explained": 0,
        "already_dead": False,
    }
    assert await statuses(connection, tasks) == ["pending"] * 2
    again = await client.post(f"/api/v1/workers/{worker}:release")
    assert again.json() == {
        "worker_id": str(worker),
        "released": 0,
        "failed": 0,
        "explained": 0,
        "already_dead": True,
    }
    check_field_error(
        await client.post(f"/api/v1/workers/{worker}:release", json={"reason": "boredom"}), "reason"
    )


async def test_worker_with_an_expired_lease_is_released(
    client: httpx.AsyncClient, connection: asyncpg.Connection, worker: UUID
) -> None:
    [task] = await add_tasks(connection)
    await claim_queues(connection, worker)
    await connection.execute("UPDATE workers SET heartbeat_at = now() - interval '1 minute'")
    assert (await client.get(f"/api/v1/workers/{worker}")).json()["expired"] is True
    assert (await client.post(f"/api/v1/workers/{worker}:release")).json()["released"] == 1
    assert await statuses(connection, [task]) == ["pending"]


async def test_draining_worker_claims_nothing(
    client: httpx.AsyncClient, connection: asyncpg.Connection, worker: UUID
) -> None:
    await add_tasks(connection)
    drained = await client.post(f"/api/v1/workers/{worker}:drain")
    assert drained.json() == {"worker_id": str(worker), "state": "draining"}
    assert await claim_queues(connection, worker) == []
    lease = await workers.heartbeat(connection, worker)
    assert lease is not None and lease.draining
