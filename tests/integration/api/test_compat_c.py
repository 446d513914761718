"""The API of service C, at the root and under `/compat/c`."""

import sys
import threading
from datetime import UTC, datetime
from typing import Any

import asyncpg
import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from task_service.api.app import create_app
from task_service.api.compat import c_schemas
from task_service.domain.ids import new_id
from task_service.services.legacy import unpaged_lists
from task_service.settings import Settings
from tests.support import api_process
from tests.support.problems import check_problem
from tests.support.receiver import Answer, receiver
from tests.support.service_settings import settings_for
from tests.support.task_api import TASKS, create_task
from tests.support.tasks import add_worker, quiet_wakeups
from tests.support.waiting import eventually

pytestmark = pytest.mark.asyncio


@pytest.mark.parametrize("prefix", ["", "/compat/c"])
@pytest.mark.parametrize("slash", ["", "/"])
async def test_every_documented_path_works_with_and_without_a_slash(
    client: httpx.AsyncClient, connection: asyncpg.Connection, prefix: str, slash: str
) -> None:
    body = {"title": "a", "description": "b", "conversations": [{"body": "one"}, {"body": "two"}]}
    made = await client.post(f"{prefix}/tasks{slash}", json=body)
    assert made.status_code == 201, made.text
    number = made.json()["id"]
    assert isinstance(number, int)
    assert await connection.fetchval("SELECT handler FROM queue") == "conversations"
    url = f"{prefix}/tasks/{number}"
    read = (await client.get(f"{url}{slash}")).json()
    assert read == made.json()
    assert [x["body"] for x in read["conversations"]] == ["one", "two"]
    [listed] = (await client.get(f"{prefix}/tasks{slash}")).json()
    assert listed["conversation_count"] == 2
    added = await client.post(f"{url}/conversations{slash}", json={"body": {"n": 3}})
    assert (added.status_code, added.json()["task_id"]) == (201, number)
    own = (await client.get(f"{url}/conversations{slash}")).json()
    assert [x["body"] for x in own] == ["one", "two", {"n": 3}]
    put = await client.put(f"{prefix}/conversations/{own[0]['id']}{slash}", json={"body": "first"})
    assert (put.status_code, put.json()["body"]) == (200, "first")
    changed = await client.put(f"{url}{slash}", json={"title": "new", "status": "COMPLETED"})
    assert (changed.json()["title"], changed.json()["description"], changed.json()["status"]) == (
        "new",
        "b",
        "completed",
    )
    assert (await client.get(f"{prefix}/health{slash}")).json() == {
        "status": "healthy",
        "database": "up",
    }
    assert (await client.get(f"{prefix}/status{slash}")).status_code == 200
    assert (await client.delete(f"{url}{slash}")).status_code == 204
    assert (await client.get(f"{url}{slash}")).status_code == 404
    assert (await client.get(f"{url}/conversations{slash}")).status_code == 404
    assert (
        await client.put(f"{prefix}/conversations/{own[0]['id']}{slash}", json={"body": 1})
    ).status_code == 404


async def test_uuids_are_accepted_as_ids(client: httpx.AsyncClient) -> None:
    task = await create_task(client, conversations=[{"body": 1}])
    shown = (await client.get(f"/tasks/{task['id']}")).json()
    assert isinstance(shown["id"], int)
    assert (await client.put(f"/tasks/{task['id']}", json={"title": "b"})).json()["id"] == shown[
        "id"
    ]
    assert (await client.get(f"{TASKS}/{task['id']}")).json()["title"] == "b"
    conversation = (await client.get(f"{TASKS}/{task['id']}/conversations")).json()["items"][0][
        "id"
    ]
    assert (
        await client.put(f"/conversations/{conversation}", json={"status": "processed"})
    ).json()["id"] == 1


async def test_scheduled_task_is_shown_as_pending(client: httpx.AsyncClient) -> None:
    await create_task(client, handler="noop", run_at="2100-01-01T00:00:00Z")
    assert [t["status"] for t in (await client.get("/tasks")).json()] == ["pending"]


@pytest.mark.parametrize("count", [0, 1, 4, 5, 8, 9])
async def test_lists_of_any_length_are_one_json_array(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    monkeypatch.setattr(unpaged_lists, "CHUNK", 4)
    for _ in range(count):
        await create_task(client)
    listed = (await client.get("/tasks/")).json()
    assert [t["id"] for t in listed] == list(range(1, count + 1))
    task = await create_task(client, conversations=[{"body": n} for n in range(count)])
    own = (await client.get(f"/tasks/{task['id']}/conversations/")).json()
    assert [x["body"] for x in own] == list(range(count))


@pytest.mark.parametrize(
    "key", ["0", "99", "9" * 19, "9" * 40, "-1", "1.5", "x", "٣", str(new_id())]
)
async def test_unknown_numeric_ids_return_404(client: httpx.AsyncClient, key: str) -> None:
    for call in (
        client.get(f"/tasks/{key}"),
        client.put(f"/tasks/{key}", json={"title": "a"}),
        client.delete(f"/tasks/{key}/"),
        client.get(f"/tasks/{key}/conversations"),
        client.post(f"/tasks/{key}/conversations", json={"body": 1}),
        client.put(f"/conversations/{key}", json={"body": 1}),
    ):
        check_problem(await call, 404, "not_found")


async def test_invalid_input_gets_the_same_errors_as_in_the_canonical_api(
    client: httpx.AsyncClient,
) -> None:
    made = (await client.post("/tasks/", json={"title": "a"})).json()
    for body in ({}, {"title": ""}, {"title": "a", "conversations": [{}]}):
        check_problem(await client.post("/tasks/", json=body), 422, "invalid_field")
    check_problem(
        await client.put(f"/tasks/{made['id']}", json={"status": "processing"}),
        409,
        "invalid_transition",
    )
    check_problem(
        await client.put(f"/tasks/{made['id']}", json={"title": None}), 422, "invalid_field"
    )


async def test_tasks_are_manual_without_a_default_handler(
    database: str, engine: AsyncEngine, connection: asyncpg.Connection
) -> None:
    app = create_app(settings_for(database, default_handler=""), engine, quiet_wakeups())
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://service"
    ) as client:
        await client.post("/tasks/", json={"title": "a"})
    assert await connection.fetchval("SELECT count(*) FROM queue") == 0


class BusyWorker:
    """State of a worker in the same process."""

    def __init__(self) -> None:
        self.instance_id = new_id()
        self.running_since = datetime(2026, 1, 1, tzinfo=UTC)
        self.current_task_ids = [new_id(), new_id()]
        self.completed = 3
        self.failed = 1


async def test_status_shows_the_worker_of_this_process_and_all_others(
    settings: Settings, engine: AsyncEngine, connection: asyncpg.Connection
) -> None:
    other, worker = await add_worker(connection), BusyWorker()
    app = create_app(settings, engine, quiet_wakeups(), worker=worker)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://service"
    ) as client:
        status: dict[str, Any] = (await client.get("/status")).json()
    assert status["worker"] == {
        "instance_id": str(worker.instance_id),
        "running_since": "2026-01-01T00:00:00Z",
        "current_task": str(worker.current_task_ids[0]),
        "current_tasks": [str(i) for i in worker.current_task_ids],
        "completed": 3,
        "failed": 1,
    }
    assert [w["id"] for w in status["workers"]] == [str(other)]


async def test_status_shows_the_running_task_and_counts_finished_ones(
    database: str, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api_process, "ARGV", [sys.executable, "-m", "task_service.cli", "serve"])
    settings: dict[str, Any] = {
        "database_url": database,
        "auth_mode": "open",
        "webhook_allow_private": True,
    }
    may_end = threading.Event()
    with receiver() as target, api_process.api_processes(1, **settings) as [process]:
        target.answers += [Answer(hold=may_end), Answer(404), Answer(404)]
        async with httpx.AsyncClient(base_url=process.url) as client:

            async def wait_for_status(**expected: Any) -> Any:
                async def probe() -> Any:
                    worker = (await client.get("/status")).json()["worker"]
                    return worker if expected.items() <= worker.items() else None

                return await eventually(f"/status with {expected}", probe)

            async def call() -> str:
                return str(
                    (await create_task(client, handler="webhook", payload={"url": target.url}))[
                        "id"
                    ]
                )

            idle = await wait_for_status(current_task=None, current_tasks=[], completed=0, failed=0)
            held = await call()
            assert await wait_for_status(current_task=held) == idle | {
                "current_task": held,
                "current_tasks": [held],
            } | {"instance_id": str(await connection.fetchval("SELECT id FROM workers"))}
            may_end.set()
            await wait_for_status(current_task=None, completed=1, failed=0)
            await call()
            await call()
            await wait_for_status(current_task=None, completed=1, failed=2)


async def test_responses_have_exactly_the_documented_fields(
    client: httpx.AsyncClient, connection: asyncpg.Connection
) -> None:
    await add_worker(connection)
    made = (
        await client.post("/tasks/", json={"title": "a", "conversations": [{"body": 1}]})
    ).json()
    for model, content in (
        (c_schemas.TaskC, made),
        (c_schemas.ConversationC, made["conversations"][0]),
        (c_schemas.HealthC, (await client.get("/health")).json()),
        (c_schemas.StatusC, (await client.get("/status")).json()),
    ):
        model.model_validate(content)
        assert set(content) == set(model.model_fields), model
    [listed] = (await client.get("/tasks/")).json()
    assert set(listed) == set(c_schemas.TaskC.model_fields) - {"conversations"}
