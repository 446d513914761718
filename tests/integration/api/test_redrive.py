"""Redrive: failed tasks run again, many at a time, and no others."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest

from task_service.domain.outcomes import Outcome
from task_service.queue import results
from task_service.queue.claims import Bounds, claim
from task_service.queue.results import Finished
from tests.support.problems import check_field_error
from tests.support.tasks import add_tasks, add_worker, statuses

pytestmark = pytest.mark.asyncio
REDRIVE = "/api/v1/tasks:redrive"


async def create_finished(
    connection: asyncpg.Connection, count: int, outcome: Outcome, **entry: Any
) -> list[UUID]:
    """Create tasks that a worker finished with this outcome, and return their ids in order."""
    tasks = sorted(await add_tasks(connection, count, **entry))
    worker = await add_worker(connection)
    claims = await claim(
        connection, worker, Bounds([entry.get("queue", "default")]), count, start_at_once=True
    )
    ends = [
        Finished(c.task_id, c.fence, outcome, error="broken") for c in claims if c.task_id in tasks
    ]
    assert len(await results.finish(connection, worker, ends)) == count
    return tasks


async def redrive(client: httpx.AsyncClient, **filters: Any) -> dict[str, Any]:
    response = await client.post(REDRIVE, json=filters)
    assert response.status_code == 200, response.text
    return dict(response.json())


@pytest.mark.parametrize(
    "outcome", [Outcome.FAILED, Outcome.TIMED_OUT, Outcome.DISCARDED, Outcome.LOST]
)
async def test_redriven_task_has_all_its_attempts_and_a_higher_fence(
    client: httpx.AsyncClient, connection: asyncpg.Connection, outcome: Outcome
) -> None:
    [task] = await create_finished(connection, 1, outcome, max_attempts=1)
    before = (await client.get(f"/api/v1/tasks/{task}")).headers["etag"]
    assert await redrive(client, reason="the printer is back") == {"redriven": 1, "more": False}
    shown = await client.get(f"/api/v1/tasks/{task}")
    assert (shown.json()["status"], shown.json()["attempt"]) == ("pending", 0)
    assert shown.headers["etag"] != before
    worker = await add_worker(connection)
    [again] = await claim(connection, worker, Bounds(["default"]), 10, start_at_once=True)
    assert (again.task_id, again.fence, again.attempt, again.max_attempts) == (task, 2, 1, 5)
    assert await results.finish(connection, worker, [Finished(task, 2, Outcome.COMPLETED)]) == {
        (task, 2)
    }
    assert await statuses(connection, [task]) == ["completed"]
    history = (await client.get(f"/api/v1/tasks/{task}/history")).json()["items"]
    [line] = [h for h in history if h["reason"] == "the printer is back"]
    assert (line["previous_status"], line["new_status"], line["by"]) == (
        "failed",
        "pending",
        "anonymous",
    )


async def test_redrive_changes_only_tasks_that_a_worker_failed(
    client: httpx.AsyncClient, connection: asyncpg.Connection
) -> None:
    others = [
        *await create_finished(connection, 2, Outcome.COMPLETED),
        *await create_finished(connection, 1, Outcome.CANCELLED),
        *(deleted := await create_finished(connection, 1, Outcome.FAILED)),
        *await add_tasks(connection, 1),
    ]
    assert (await client.delete(f"/api/v1/tasks/{deleted[0]}")).status_code == 204
    for handler in (None, "noop"):  # set to failed by a user
        made = await client.post(
            "/api/v1/tasks", json={"title": "a task", "status": "failed", "handler": handler}
        )
        assert made.status_code == 201, made.text
    before = await connection.fetch("SELECT * FROM tasks ORDER BY id")
    assert len(before) == len(others) + 2
    assert await redrive(client) == {"redriven": 0, "more": False}
    assert await connection.fetch("SELECT * FROM tasks ORDER BY id") == before


async def test_redrive_filters_tasks_and_starts_with_the_oldest(
    client: httpx.AsyncClient, connection: asyncpg.Connection
) -> None:
    mail = await create_finished(connection, 3, Outcome.FAILED, queue="mail", handler="send")
    other = await create_finished(connection, 1, Outcome.FAILED, handler="print")
    await connection.execute(
        "UPDATE runs SET finished_at = now() - interval '3 days' WHERE task_id = $1", mail[2]
    )
    day = datetime.now(UTC) - timedelta(days=1)
    assert await redrive(client, handler="nobody") == {"redriven": 0, "more": False}
    assert await redrive(client, queue="mail", failed_before=day.isoformat()) == {
        "redriven": 1,
        "more": False,
    }
    assert await statuses(connection, mail) == ["failed", "failed", "pending"]
    assert await redrive(client, handler="send", failed_after=day.isoformat(), limit=1) == {
        "redriven": 1,
        "more": True,
    }
    assert await statuses(connection, mail) == ["pending", "failed", "pending"]
    assert await redrive(client, queue="mail") == {"redriven": 1, "more": False}
    assert await statuses(connection, other) == ["failed"]


async def test_statistics_are_correct_after_a_redrive(
    client: httpx.AsyncClient, connection: asyncpg.Connection
) -> None:
    await create_finished(connection, 5, Outcome.FAILED)
    await redrive(client, limit=3)
    counted = (await client.get("/api/v1/tasks/stats/summary")).json()["by_status"]
    assert (counted["failed"], counted["pending"]) == (2, 3)


async def test_concurrent_redrives_reopen_each_task_once(
    client: httpx.AsyncClient, connection: asyncpg.Connection
) -> None:
    tasks = await create_finished(connection, 200, Outcome.FAILED)
    retries = [client.post(f"/api/v1/tasks/{task}:retry") for task in tasks[:20]]
    responses = await asyncio.gather(*(redrive(client) for _ in range(4)), *retries)
    assert all(a.status_code == 200 for a in responses[4:])
    assert sum(a["redriven"] for a in responses[:4]) <= 200
    assert set(await statuses(connection, tasks)) <= {"pending", "failed"}
    while (await redrive(client))["redriven"]:
        pass
    assert set(await statuses(connection, tasks)) == {"pending"}
    lines = await connection.fetch(
        "SELECT count(*) FROM task_history WHERE new_status = 'pending' GROUP BY task_id"
    )
    assert [line[0] for line in lines] == [1] * 200


async def test_repeated_request_gets_the_first_response(
    client: httpx.AsyncClient, connection: asyncpg.Connection
) -> None:
    await create_finished(connection, 3, Outcome.FAILED)
    first, second = [
        await client.post(REDRIVE, json={"limit": 2}, headers={"Idempotency-Key": "again"})
        for _ in range(2)
    ]
    assert first.json() == second.json() == {"redriven": 2, "more": True}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("limit", 0),
        ("limit", 10_001),
        ("limit", "5"),
        ("handler", "no name!"),
        ("failed_after", "soon"),
        ("colour", 1),
    ],
)
async def test_invalid_value_is_named(client: httpx.AsyncClient, field: str, value: Any) -> None:
    check_field_error(await client.post(REDRIVE, json={field: value}), field)
