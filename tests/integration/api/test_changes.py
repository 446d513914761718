"""Changes of tasks: fields, statuses, ETags and claimed tasks."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest

from task_service.domain.outcomes import Outcome
from task_service.queue.claims import Bounds, claim
from task_service.queue.results import Finished, GivenBack, finish, give_back
from tests.support.database_rows import queue_row
from tests.support.task_api import TASKS, ClaimTask, create_task
from tests.support.tasks import add_worker

pytestmark = pytest.mark.asyncio


async def test_patch_changes_the_named_fields_and_null_clears_them(
    client: httpx.AsyncClient,
) -> None:
    task = await create_task(
        client,
        description="old",
        assigned_to="ada",
        tags=["a"],
        payload={"a": 1},
        timeout_seconds=5,
    )
    url = f"{TASKS}/{task['id']}"
    change = {
        "title": "new",
        "assigned_to": None,
        "tags": None,
        "payload": None,
        "timeout_seconds": None,
    }
    changed = (
        await client.patch(
            url, json=change, headers={"content-type": "application/merge-patch+json"}
        )
    ).json()
    assert [changed[k] for k in change] == ["new", None, [], None, None]
    assert (changed["description"], changed["version"]) == ("old", 2)
    history = (await client.get(f"{url}/history")).json()["items"]
    assert history[-1]["fields"] == ["assigned_to", "payload", "tags", "timeout_seconds", "title"]


async def test_update_without_effect_keeps_version_and_history(
    client: httpx.AsyncClient,
) -> None:
    task = await create_task(client, due_date=(datetime.now(UTC) + timedelta(days=1)).isoformat())
    url = f"{TASKS}/{task['id']}"
    same = {
        "title": "a task",
        "status": "PENDING",
        "priority": "medium",
        "due_date": task["due_date"],
        "payload": None,
    }
    assert (await client.put(url, json=same)).json() == task
    assert len((await client.get(f"{url}/history")).json()["items"]) == 1


@pytest.mark.parametrize(
    ("before", "after"), [({"a": [0]}, {"a": [False]}), ({"a": 1}, {"a": 1.5}), (True, 1)]
)
async def test_payloads_that_are_equal_only_in_python_are_a_change(
    client: httpx.AsyncClient, before: Any, after: Any
) -> None:
    task = await create_task(client, payload=before)
    response = await client.patch(f"{TASKS}/{task['id']}", json={"payload": after})
    assert json.dumps(response.json()["payload"]) == json.dumps(after)
    assert response.json()["version"] == task["version"] + 1


async def test_update_of_a_queued_task_keeps_its_queue_position(
    client: httpx.AsyncClient, connection: asyncpg.Connection
) -> None:
    task = await create_task(client, handler="noop")
    await connection.execute("UPDATE queue SET run_at = run_at - interval '10 minutes'")
    since = await connection.fetchval("SELECT run_at FROM queue")
    response = await client.patch(
        f"{TASKS}/{task['id']}", json={"timeout_seconds": 60, "priority": "low"}
    )
    assert response.status_code == 200
    assert await connection.fetchval("SELECT run_at FROM queue") == since
    await client.patch(f"{TASKS}/{task['id']}", json={"run_at": None})
    assert await connection.fetchval("SELECT run_at FROM queue") > since


async def test_retry_of_a_task_in_backoff_resets_attempts_and_losses(
    client: httpx.AsyncClient, connection: asyncpg.Connection
) -> None:
    task = await create_task(client, handler="noop")
    await connection.execute(
        "UPDATE queue SET attempt = 4, losses = 2, alone = true, run_at = now() + interval '1 hour'"
    )
    response = await client.post(f"{TASKS}/{task['id']}:retry")
    assert (response.status_code, response.json()["status"], response.json()["attempt"]) == (
        200,
        "pending",
        0,
    )
    row = await connection.fetchrow(
        "SELECT attempt, losses, alone, run_at <= clock_timestamp() FROM queue"
    )
    assert row is not None and tuple(row) == (0, 0, False, True)


async def test_retry_withdraws_a_cancel_request_that_no_worker_handled(
    client: httpx.AsyncClient, connection: asyncpg.Connection
) -> None:
    """The attempt failed before its worker saw the cancel request, so the task waits in backoff."""
    task = await create_task(client, handler="noop")
    worker = await add_worker(connection)
    [held] = await claim(connection, worker, Bounds(["default"]), 1, start_at_once=True)
    assert (await client.post(f"{TASKS}/{task['id']}:cancel")).status_code == 202
    failed = GivenBack(held.task_id, held.fence, Outcome.FAILED, error="no", delay_seconds=60)
    assert await give_back(connection, worker, [failed])
    response = (await client.post(f"{TASKS}/{task['id']}:retry")).json()
    assert (response["status"], response["cancel_requested_at"]) == ("pending", None)
    [again] = await claim(connection, worker, Bounds(["default"]), 1, start_at_once=True)
    assert not again.cancel_requested, "the worker would cancel it at once"


@pytest.mark.parametrize(
    ("field", "kept", "new"),
    [
        ("title", "x" * 300, "y" * 300),
        ("description", "x" * 3000, "y" * 3000),
        ("tags", [f"tag {n}" for n in range(20)], [f"tag {n}" for n in range(11)]),
        ("tags", ["x" * 60], ["y" * 60]),
    ],
)
async def test_imported_values_over_the_limits_may_be_kept_but_not_set(
    client: httpx.AsyncClient, connection: asyncpg.Connection, field: str, kept: Any, new: Any
) -> None:
    task = await create_task(client)
    await connection.execute(f"UPDATE tasks SET {field} = $1 WHERE id = $2", kept, UUID(task["id"]))
    response = await client.patch(f"{TASKS}/{task['id']}", json={field: kept, "priority": "urgent"})
    assert (response.status_code, response.json()[field], response.json()["priority"]) == (
        200,
        kept,
        "urgent",
    )
    refused = await client.patch(f"{TASKS}/{task['id']}", json={field: new})
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, field)


async def test_past_due_date_may_be_kept_but_not_set(
    client: httpx.AsyncClient, connection: asyncpg.Connection
) -> None:
    task = await create_task(client)
    url = f"{TASKS}/{task['id']}"
    await connection.execute("UPDATE tasks SET due_date = '2020-01-01T00:00:00Z'")
    assert (
        await client.patch(url, json={"due_date": "2020-01-01T00:00:00Z", "title": "b"})
    ).status_code == 200
    refused = await client.patch(url, json={"due_date": "2020-01-02T00:00:00Z"})
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "due_date")


async def test_update_of_a_queued_task_changes_its_queue_row(
    client: httpx.AsyncClient, connection: asyncpg.Connection
) -> None:
    task = await create_task(client, handler="noop")
    url = f"{TASKS}/{task['id']}"
    await client.patch(
        url, json={"priority": "urgent", "queue": "mail", "max_attempts": 2, "handler": "other"}
    )
    row = await queue_row(connection)
    assert row == {
        "state": "ready", "queue": "mail", "priority": 0, "handler": "other", "max_attempts": 2, "attempt": 0,
        "fence": 0,
    }  # fmt: skip
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    assert (await client.patch(url, json={"run_at": later})).json()["status"] == "scheduled"
    assert (await client.patch(url, json={"status": "pending"})).json()["status"] == "pending"


async def test_task_becomes_manual_and_queued_again(
    client: httpx.AsyncClient, connection: asyncpg.Connection
) -> None:
    task = await create_task(client, handler="noop")
    url = f"{TASKS}/{task['id']}"
    assert (await client.patch(url, json={"handler": None})).json()["status"] == "pending"
    assert await queue_row(connection) is None
    assert (await client.patch(url, json={"handler": "noop"})).json()["status"] == "pending"
    assert await queue_row(connection) is not None
    assert (await client.patch(url, json={"status": "in_progress"})).json()[
        "status"
    ] == "in_progress"
    assert await queue_row(connection) is None


async def test_reopened_task_has_all_its_attempts_and_a_higher_fence(
    client: httpx.AsyncClient, connection: asyncpg.Connection, claim_task: ClaimTask
) -> None:
    task = await create_task(client, handler="noop")
    url = f"{TASKS}/{task['id']}"
    claimed = await claim_task(task["id"])
    worker = await connection.fetchval("SELECT worker_id FROM queue")
    await finish(
        connection, worker, [Finished(claimed.task_id, claimed.fence, Outcome.FAILED, error="no")]
    )
    assert (await client.get(url)).json()["status"] == "failed"
    opened = (await client.post(f"{url}:retry")).json()
    assert (opened["status"], opened["attempt"]) == ("pending", 0)
    row = await queue_row(connection)
    assert row is not None
    assert (row["attempt"], row["fence"]) == (0, 1)
    assert (await claim_task(task["id"])).fence == 2
    assert not await finish(connection, worker, [Finished(claimed.task_id, 1, Outcome.COMPLETED)])


async def test_user_may_override_the_status_of_a_finished_run(
    client: httpx.AsyncClient, connection: asyncpg.Connection, claim_task: ClaimTask
) -> None:
    task = await create_task(client, handler="noop")
    claimed = await claim_task(task["id"])
    worker = await connection.fetchval("SELECT worker_id FROM queue")
    await finish(
        connection, worker, [Finished(claimed.task_id, claimed.fence, Outcome.FAILED, error="no")]
    )
    assert (await client.patch(f"{TASKS}/{task['id']}", json={"status": "cancelled"})).json()[
        "status"
    ] == "cancelled"
    assert await connection.fetchval("SELECT count(*) FROM runs WHERE final") == 0


@pytest.mark.parametrize(
    ("status", "wanted", "allowed"),
    [
        ("completed", "failed", ["pending", "in_progress"]),
        ("cancelled", "completed", ["pending", "in_progress"]),
        ("pending", "processing", ["in_progress", "completed", "failed", "cancelled"]),
        ("in_progress", "scheduled", ["pending", "completed", "failed", "cancelled"]),
    ],
)
async def test_invalid_status_transition_lists_the_allowed_ones(
    client: httpx.AsyncClient, status: str, wanted: str, allowed: list[str]
) -> None:
    task = await create_task(client, status=status)
    response = await client.patch(f"{TASKS}/{task['id']}", json={"status": wanted})
    assert (response.status_code, response.json()["code"]) == (409, "invalid_transition")
    assert response.json()["allowed"] == allowed


async def test_claimed_task_accepts_only_descriptive_changes_and_cancel(
    client: httpx.AsyncClient, connection: asyncpg.Connection, claim_task: ClaimTask
) -> None:
    task = await create_task(client, handler="noop")
    url = f"{TASKS}/{task['id']}"
    await claim_task(task["id"])
    assert (
        await client.patch(url, json={"title": "b", "tags": ["x"], "assigned_to": "ada"})
    ).status_code == 200
    for change in (
        {"handler": "other"}, {"queue": "mail"}, {"payload": 1}, {"run_at": "2030-01-01T00:00:00Z"},
        {"max_attempts": 9},
        {"timeout_seconds": 9}, {"priority": "low"}, {"status": "completed"}, {"status": "pending"},
    ):  # fmt: skip
        response = await client.patch(url, json=change)
        assert (response.status_code, response.json()["code"]) == (409, "held_by_worker"), change
    assert response.json()["allowed"] == ["cancelled"]
    assert (await client.post(f"{url}:retry")).json()["code"] == "held_by_worker"
    cancelled = await client.post(f"{url}:cancel", json={"reason": "not needed"})
    assert (cancelled.status_code, cancelled.json()["status"]) == (202, "processing")
    assert cancelled.json()["cancel_requested_at"] is not None
    again = await client.post(f"{url}:cancel")
    assert (again.status_code, again.json()) == (202, cancelled.json())
    history = (await client.get(f"{url}/history")).json()["items"]
    assert [(e["reason"], e["fields"]) for e in history[2:]] == [
        ("not needed", ["cancel_requested_at"])
    ]
