"""Limits over the API, and every way in which a task enters the queue under them."""

import asyncio
import csv
import io
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest

from task_service.domain.outcomes import Outcome
from task_service.enqueue import enqueue_async
from task_service.queue import limits, results
from task_service.queue.claims import Bounds, claim
from task_service.queue.results import Finished
from task_service.queue.wakeups import LIMITS
from tests.support.problems import check_field_error, check_problem
from tests.support.task_api import TASKS, upload_csv
from tests.support.tasks import add_tasks, add_worker

pytestmark = pytest.mark.asyncio
PATH = "/api/v1/limits"


async def put(client: httpx.AsyncClient, kind: str, name: str, **values: Any) -> httpx.Response:
    return await client.put(f"{PATH}/{kind}/{name}", json=values)


async def queue_rows(connection: asyncpg.Connection) -> list[tuple[Any, ...]]:
    """Return queue, limit key, state and `limited` of every row of the queue."""
    found = await connection.fetch(
        "SELECT queue, limit_key, state, limited FROM queue ORDER BY task_id"
    )
    return [tuple(row) for row in found]


async def run_one(connection: asyncpg.Connection, outcome: Outcome) -> UUID:
    """Admit, claim and finish one task; return its id."""
    assert await limits.admit(connection)
    worker = await add_worker(connection)
    [held] = await claim(connection, worker, Bounds(["default"]), 1, start_at_once=True)
    await results.finish(connection, worker, [Finished(held.task_id, held.fence, outcome)])
    return held.task_id


async def test_limit_is_created_read_listed_replaced_and_deleted(client: httpx.AsyncClient) -> None:
    made = await put(client, "queue", "mail", concurrency=5)
    assert made.status_code == 201, made.text
    assert made.headers["location"] == f"{PATH}/queue/mail"
    expected = {
        "kind": "queue", "name": "mail", "concurrency": 5, "rate": None, "period_seconds": None, "admitted": 0,
        "updated_by": "anonymous",
    }  # fmt: skip
    assert {name: value for name, value in made.json().items() if name != "updated_at"} == expected
    assert (await client.get(f"{PATH}/queue/mail")).json() == made.json()
    replaced = await put(client, "queue", "mail", rate=100, period_seconds=60)
    assert replaced.status_code == 200
    assert (replaced.json()["concurrency"], replaced.json()["rate"]) == (None, 100)
    await put(client, "key", "customer-7", concurrency=1)
    first = (await client.get(PATH, params={"limit": 1})).json()
    then = (await client.get(PATH, params={"limit": 1, "cursor": first["next_cursor"]})).json()
    assert [i["name"] for i in first["items"] + then["items"]] == ["customer-7", "mail"]
    assert then["next_cursor"] is None
    assert (await client.delete(f"{PATH}/queue/mail")).status_code == 204
    for method in ("GET", "DELETE"):
        check_problem(await client.request(method, f"{PATH}/queue/mail"), 404, "not_found")


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({}, "concurrency"), ({"concurrency": None}, "concurrency"), ({"concurrency": 0}, "concurrency"),
        ({"concurrency": 1.5}, "concurrency"), ({"concurrency": 100_001}, "concurrency"),
        ({"rate": 5}, "period_seconds"), ({"concurrency": 1, "period_seconds": 5}, "period_seconds"),
        ({"rate": 0, "period_seconds": 1}, "rate"), ({"rate": 1, "period_seconds": 0.5}, "period_seconds"),
        ({"rate": 1, "period_seconds": "1"}, "period_seconds"),
        ({"concurrency": 1, "colour": "red"}, "colour"),
    ],
)  # fmt: skip
async def test_invalid_limit_is_rejected_by_field(
    client: httpx.AsyncClient, values: dict[str, Any], field: str
) -> None:
    check_field_error(await put(client, "queue", "mail", **values), field)
    assert (await client.get(PATH)).json()["items"] == []


async def test_invalid_kind_or_name_is_rejected(client: httpx.AsyncClient) -> None:
    for path in ("person/ada", "queue/no name", f"key/{'x' * 101}"):
        assert (await client.put(f"{PATH}/{path}", json={"concurrency": 1})).status_code == 422, (
            path
        )


async def test_limit_applies_to_waiting_tasks_and_notifies_the_admitter(
    client: httpx.AsyncClient, connection: asyncpg.Connection
) -> None:
    notifications: asyncio.Queue[object] = asyncio.Queue()
    await connection.add_listener(
        "task_service_queue", lambda *args: notifications.put_nowait(args[-1])
    )
    await add_tasks(connection, 3, queue="mail")
    assert await asyncio.wait_for(notifications.get(), 10) == "mail"
    await put(client, "queue", "mail", concurrency=1)
    assert await asyncio.wait_for(notifications.get(), 10) == LIMITS
    assert await queue_rows(connection) == [("mail", None, "blocked", True)] * 3
    await limits.admit(connection)
    assert await asyncio.wait_for(notifications.get(), 10) == "mail"
    assert (await client.get(f"{PATH}/queue/mail")).json()["admitted"] == 1
    figures = (await client.get("/api/v1/queues/mail")).json()
    assert (figures["ready"], figures["blocked"]) == (1, 2)
    await add_tasks(connection, 1, queue="mail")
    assert await asyncio.wait_for(notifications.get(), 10) == LIMITS
    await client.delete(f"{PATH}/queue/mail")
    assert await asyncio.wait_for(notifications.get(), 10) == LIMITS


async def test_changed_rate_keeps_the_tokens_in_the_bucket(
    client: httpx.AsyncClient, connection: asyncpg.Connection
) -> None:
    await put(client, "key", "x", rate=3, period_seconds=86_400)
    await add_tasks(connection, 5, limit_key="x")
    await limits.admit(connection)
    worker = await add_worker(connection)
    claims = await claim(connection, worker, Bounds(["default"]), 9, start_at_once=True)
    assert len(claims) == 3
    await put(client, "key", "x", rate=4, period_seconds=86_400)
    done = await limits.admit(connection)
    assert done is not None
    assert done.admitted == 0, "a change of the limit does not refill the bucket"


async def create_by(
    client: httpx.AsyncClient, connection: asyncpg.Connection, method: str, task: dict[str, Any]
) -> None:
    """Create this task in one of the possible ways."""
    match method:
        case "single":
            response = await client.post(TASKS, json=task)
        case "batch":
            response = await client.post(f"{TASKS}:batch", json={"tasks": [task]})
        case "csv":
            content = f"{','.join(task)}\r\n{','.join(task.values())}\r\n"
            response = await upload_csv(client, content)
        case "schedule":
            schedule = {"name": "plants", "cron": "0 8 * * *", "template": task}
            made = await client.post("/api/v1/schedules", json=schedule)
            response = await client.post(f"/api/v1/schedules/{made.json()['id']}:run")
        case _:
            await enqueue_async(connection, **task)
            return
    assert response.is_success, response.text


@pytest.mark.parametrize("method", ["single", "batch", "csv", "schedule", "function"])
@pytest.mark.parametrize("limited", ["key", "queue", "neither"])
async def test_every_way_into_the_queue_respects_the_limits(
    client: httpx.AsyncClient, connection: asyncpg.Connection, method: str, limited: str
) -> None:
    key = "customer-7" if limited == "key" else None
    if limited == "queue":
        await put(client, "queue", "mail", concurrency=1)
    task = {"title": "x", "handler": "noop", "queue": "mail"} | ({"limit_key": key} if key else {})
    await create_by(client, connection, method, task)
    state = ("ready", False) if limited == "neither" else ("blocked", True)
    assert await queue_rows(connection) == [("mail", key, *state)]
    [shown] = (await client.get(TASKS)).json()["items"]
    assert shown["limit_key"] == key
    [line] = csv.DictReader(io.StringIO((await client.get(f"{TASKS}:export")).text))
    assert line["limit_key"] == (key or "")


@pytest.mark.parametrize("key", ["no name!", "", 7, "x" * 101])
async def test_invalid_limit_key_is_rejected_by_name(
    client: httpx.AsyncClient, connection: asyncpg.Connection, key: Any
) -> None:
    task = {"title": "x", "handler": "noop", "limit_key": key}
    check_field_error(await client.post(TASKS, json=task), "limit_key")
    if isinstance(key, str):
        with pytest.raises(asyncpg.InvalidParameterValueError, match=r"^limit_key: "):
            await enqueue_async(connection, "noop", limit_key=key)
    assert await connection.fetchval("SELECT count(*) FROM tasks") == 0


@pytest.mark.parametrize("method", ["retry", "redrive"])
async def test_retried_and_redriven_tasks_are_limited(
    client: httpx.AsyncClient, connection: asyncpg.Connection, method: str
) -> None:
    await client.post(TASKS, json={"title": "x", "handler": "noop", "limit_key": "x"})
    task = await run_one(connection, Outcome.FAILED)
    if method == "retry":
        await client.post(f"{TASKS}/{task}:retry")
    else:
        await client.post(f"{TASKS}:redrive", json={})
    assert await queue_rows(connection) == [("default", "x", "blocked", True)]


async def test_task_is_limited_only_while_its_queue_is_limited(
    client: httpx.AsyncClient, connection: asyncpg.Connection
) -> None:
    await put(client, "queue", "mail", concurrency=1)
    [task] = await add_tasks(connection)
    await client.patch(f"{TASKS}/{task}", json={"queue": "mail"})
    assert await queue_rows(connection) == [("mail", None, "blocked", True)]
    await client.patch(f"{TASKS}/{task}", json={"queue": "default"})
    assert await queue_rows(connection) == [("default", None, "ready", False)]


async def test_task_that_waits_for_its_limit_can_be_cancelled(
    client: httpx.AsyncClient, connection: asyncpg.Connection
) -> None:
    [task] = await add_tasks(connection, limit_key="x")
    assert (await client.get(f"{TASKS}/{task}")).json()["status"] == "pending"
    cancelled = await client.post(f"{TASKS}/{task}:cancel")
    assert cancelled.json()["status"] == "cancelled", cancelled.text
    assert await queue_rows(connection) == []
