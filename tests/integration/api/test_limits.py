"""Limits over the API, and the ways by which tasks come under them."""

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
from tests.integration.api.test_bad_input import check_problem
from tests.integration.api.test_csv import upload
from tests.support.problems import check_field
from tests.support.tasks import add_tasks, add_worker

pytestmark = pytest.mark.asyncio
PATH = "/api/v1/limits"
TASKS = "/api/v1/tasks"


async def put(client: httpx.AsyncClient, kind: str, name: str, **values: Any) -> httpx.Response:
    return await client.put(f"{PATH}/{kind}/{name}", json=values)


async def rows(connection: asyncpg.Connection) -> list[tuple[Any, ...]]:
    """Queue, key, state and whether it is limited, of every row of the queue."""
    found = await connection.fetch(
        "SELECT queue, limit_key, state, limited FROM queue ORDER BY task_id"
    )
    return [tuple(row) for row in found]


async def run_one(connection: asyncpg.Connection, outcome: Outcome) -> UUID:
    """Admit, claim and end one task; return its id."""
    assert await limits.admit(connection)
    worker = await add_worker(connection)
    [held] = await claim(connection, worker, Bounds(["default"]), 1, start_at_once=True)
    await results.finish(connection, worker, [Finished(held.task_id, held.fence, outcome)])
    return held.task_id


async def test_a_limit_is_set_read_listed_replaced_and_removed(client: httpx.AsyncClient) -> None:
    made = await put(client, "queue", "mail", concurrency=5)
    assert made.status_code == 201, made.text
    assert made.headers["location"] == f"{PATH}/queue/mail"
    told = {
        "kind": "queue", "name": "mail", "concurrency": 5, "rate": None, "period_seconds": None, "admitted": 0,
        "updated_by": "anonymous",
    }  # fmt: skip
    assert {name: value for name, value in made.json().items() if name != "updated_at"} == told
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
async def test_a_bad_limit_is_refused_and_the_field_named(
    client: httpx.AsyncClient, values: dict[str, Any], field: str
) -> None:
    check_field(await put(client, "queue", "mail", **values), field)
    assert (await client.get(PATH)).json()["items"] == []


async def test_a_kind_or_name_that_cannot_be_is_refused(client: httpx.AsyncClient) -> None:
    for path in ("person/ada", "queue/no name", f"key/{'x' * 101}"):
        assert (await client.put(f"{PATH}/{path}", json={"concurrency": 1})).status_code == 422, (
            path
        )


async def test_a_limit_holds_at_once_for_what_waits_and_wakes_who_admits(
    client: httpx.AsyncClient, connection: asyncpg.Connection
) -> None:
    woken: asyncio.Queue[object] = asyncio.Queue()
    await connection.add_listener("task_service_queue", lambda *args: woken.put_nowait(args[-1]))
    await add_tasks(connection, 3, queue="mail")
    assert await asyncio.wait_for(woken.get(), 10) == "mail"
    await put(client, "queue", "mail", concurrency=1)
    assert await asyncio.wait_for(woken.get(), 10) == LIMITS
    assert await rows(connection) == [("mail", None, "blocked", True)] * 3
    await limits.admit(connection)
    assert await asyncio.wait_for(woken.get(), 10) == "mail"
    assert (await client.get(f"{PATH}/queue/mail")).json()["admitted"] == 1
    figures = (await client.get("/api/v1/queues/mail")).json()
    assert (figures["ready"], figures["blocked"]) == (1, 2)
    await add_tasks(connection, 1, queue="mail")
    assert await asyncio.wait_for(woken.get(), 10) == LIMITS
    await client.delete(f"{PATH}/queue/mail")
    assert await asyncio.wait_for(woken.get(), 10) == LIMITS


async def test_a_changed_rate_keeps_what_is_left_in_the_bucket(
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
    assert done.admitted == 0, "setting it again fills nothing"


async def enter(
    client: httpx.AsyncClient, connection: asyncpg.Connection, way: str, task: dict[str, Any]
) -> None:
    """Enter this task on one of the ways that there are."""
    match way:
        case "single":
            answer = await client.post(TASKS, json=task)
        case "batch":
            answer = await client.post(f"{TASKS}:batch", json={"tasks": [task]})
        case "csv":
            content = f"{','.join(task)}\r\n{','.join(task.values())}\r\n"
            answer = await upload(client, content)
        case "schedule":
            schedule = {"name": "plants", "cron": "0 8 * * *", "template": task}
            made = await client.post("/api/v1/schedules", json=schedule)
            answer = await client.post(f"/api/v1/schedules/{made.json()['id']}:run")
        case _:
            await enqueue_async(connection, **task)
            return
    assert answer.is_success, answer.text


@pytest.mark.parametrize("way", ["single", "batch", "csv", "schedule", "function"])
@pytest.mark.parametrize("limited", ["key", "queue", "neither"])
async def test_each_way_into_the_queue_knows_the_limits(
    client: httpx.AsyncClient, connection: asyncpg.Connection, way: str, limited: str
) -> None:
    key = "customer-7" if limited == "key" else None
    if limited == "queue":
        await put(client, "queue", "mail", concurrency=1)
    task = {"title": "x", "handler": "noop", "queue": "mail"} | ({"limit_key": key} if key else {})
    await enter(client, connection, way, task)
    state = ("ready", False) if limited == "neither" else ("blocked", True)
    assert await rows(connection) == [("mail", key, *state)]
    [shown] = (await client.get(TASKS)).json()["items"]
    assert shown["limit_key"] == key
    [line] = csv.DictReader(io.StringIO((await client.get(f"{TASKS}:export")).text))
    assert line["limit_key"] == (key or "")


@pytest.mark.parametrize("key", ["no name!", "", 7, "x" * 101])
async def test_a_bad_key_is_refused_and_named(
    client: httpx.AsyncClient, connection: asyncpg.Connection, key: Any
) -> None:
    task = {"title": "x", "handler": "noop", "limit_key": key}
    check_field(await client.post(TASKS, json=task), "limit_key")
    if isinstance(key, str):
        with pytest.raises(asyncpg.InvalidParameterValueError, match=r"^limit_key: "):
            await enqueue_async(connection, "noop", limit_key=key)
    assert await connection.fetchval("SELECT count(*) FROM tasks") == 0


@pytest.mark.parametrize("way", ["retry", "redrive"])
async def test_what_failed_comes_back_under_its_limits(
    client: httpx.AsyncClient, connection: asyncpg.Connection, way: str
) -> None:
    await client.post(TASKS, json={"title": "x", "handler": "noop", "limit_key": "x"})
    task = await run_one(connection, Outcome.FAILED)
    if way == "retry":
        await client.post(f"{TASKS}/{task}:retry")
    else:
        await client.post(f"{TASKS}:redrive", json={})
    assert await rows(connection) == [("default", "x", "blocked", True)]


async def test_a_task_that_moves_to_a_limited_queue_waits_there_and_back_in_another_it_does_not(
    client: httpx.AsyncClient, connection: asyncpg.Connection
) -> None:
    await put(client, "queue", "mail", concurrency=1)
    [task] = await add_tasks(connection)
    await client.patch(f"{TASKS}/{task}", json={"queue": "mail"})
    assert await rows(connection) == [("mail", None, "blocked", True)]
    await client.patch(f"{TASKS}/{task}", json={"queue": "default"})
    assert await rows(connection) == [("default", None, "ready", False)]


async def test_a_task_that_waits_for_its_limit_can_be_cancelled(
    client: httpx.AsyncClient, connection: asyncpg.Connection
) -> None:
    [task] = await add_tasks(connection, limit_key="x")
    assert (await client.get(f"{TASKS}/{task}")).json()["status"] == "pending"
    cancelled = await client.post(f"{TASKS}/{task}:cancel")
    assert cancelled.json()["status"] == "cancelled", cancelled.text
    assert await rows(connection) == []
