"""Changes of tasks: fields, statuses, ETags and claimed tasks."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest

from task_service.domain.outcomes import Outcome
from task_service.queue.claims import Bounds, claim
from task_service.queue.entries import Entry, enqueue
from task_service.queue.results import Finished, GivenBack, finish, give_back
from tests.support.task_api import TASKS, ClaimTask, create_task
from tests.support.tasks import add_worker, quiet_wakeups
from tests.support.waiting import eventually

pytestmark = pytest.mark.asyncio


async def queue_row(connection: asyncpg.Connection) -> dict[str, Any] | None:
    row = await connection.fetchrow(
        "SELECT state, queue, priority, handler, max_attempts, attempt, fence FROM queue"
    )
    return dict(row) if row else None


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
    assert tuple(row) == (0, 0, False, True)


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


async def test_stale_etag_is_rejected_with_the_current_one(client: httpx.AsyncClient) -> None:
    task = await create_task(client)
    url = f"{TASKS}/{task['id']}"
    first = (await client.get(url)).headers["etag"]
    second = (await client.patch(url, json={"title": "b"}, headers={"If-Match": first})).headers[
        "etag"
    ]
    for response in (
        await client.patch(url, json={"title": "c"}, headers={"If-Match": first}),
        await client.delete(url, headers={"If-Match": first}),
        await client.post(f"{url}:cancel", headers={"If-Match": first}),
    ):
        assert (response.status_code, response.json()["code"], response.json()["current_etag"]) == (
            412,
            "stale_version",
            second,
        )
    assert (
        await client.patch(url, json={"title": "c"}, headers={"If-Match": f'"x", {second}'})
    ).status_code == 200
    assert (
        await client.patch(url, json={"title": "d"}, headers={"If-Match": "*"})
    ).status_code == 200


async def test_claim_makes_an_etag_stale_and_a_new_conversation_does_not(
    client: httpx.AsyncClient, connection: asyncpg.Connection, claim_task: ClaimTask
) -> None:
    task = await create_task(client, handler="noop")
    url = f"{TASKS}/{task['id']}"
    etag = (await client.get(url)).headers["etag"]
    await client.post(f"{url}/conversations", json={"body": 1})
    assert (
        await client.patch(url, json={"title": "a task"}, headers={"If-Match": etag})
    ).status_code == 200
    await claim_task(task["id"])
    assert (await client.post(f"{url}:cancel", headers={"If-Match": etag})).status_code == 412


async def test_concurrent_updates_with_etags_are_not_lost(client: httpx.AsyncClient) -> None:
    task = await create_task(client, payload=0, handler="noop", queue="unserved")
    url = f"{TASKS}/{task['id']}"

    async def add_one() -> int:
        for tries in range(1, 200):
            read = await client.get(url)
            change = {"payload": read.json()["payload"] + 1}
            response = await client.patch(
                url, json=change, headers={"If-Match": read.headers["etag"]}
            )
            if response.status_code == 200:
                return tries
            assert response.status_code == 412
        raise AssertionError("the update never succeeded")

    tries = await asyncio.gather(*(add_one() for _ in range(16)))
    assert (await client.get(url)).json()["payload"] == 16
    assert sum(tries) > 16, "no update was ever stale: the clients did not compete"


async def test_update_restarts_when_the_task_enters_the_queue_concurrently(
    client: httpx.AsyncClient, connection: asyncpg.Connection, database: str
) -> None:
    task = await create_task(client, handler="noop", status="completed")
    key = UUID(task["id"])
    other = await asyncpg.connect(database)
    async with other.transaction():  # reopens the task and has not committed yet
        await other.execute("SELECT FROM tasks WHERE id = $1 FOR UPDATE", key)
        change = asyncio.create_task(
            client.patch(f"{TASKS}/{task['id']}", json={"status": "in_progress"})
        )

        async def waits() -> bool:
            return bool(
                await connection.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted")
            )

        await eventually("the change waits for the task", waits)
        await other.execute("UPDATE tasks SET status = NULL WHERE id = $1", key)
        await enqueue(other, [Entry(key, "default", 2, None, 5, None, "noop")], quiet_wakeups())
    response = await change
    await other.close()
    assert (response.status_code, response.json()["status"]) == (200, "in_progress")
    assert await queue_row(connection) is None


async def test_update_is_retried_after_a_deadlock(
    client: httpx.AsyncClient, connection: asyncpg.Connection, database: str
) -> None:
    task = await create_task(client, handler="noop")
    key = UUID(task["id"])
    other = await asyncpg.connect(database)
    await other.execute("SET deadlock_timeout = '1h'")  # PostgreSQL aborts the request
    async with other.transaction():  # wrong lock order: the task before its queue row
        await other.execute("SELECT FROM tasks WHERE id = $1 FOR UPDATE", key)
        change = asyncio.create_task(
            client.patch(f"{TASKS}/{task['id']}", json={"status": "in_progress"})
        )

        async def waits() -> bool:
            return bool(
                await connection.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted")
            )

        await eventually("the change waits for the task", waits)
        await other.execute("SELECT FROM queue WHERE task_id = $1 FOR UPDATE", key)
    response = await change
    await other.close()
    assert (response.status_code, response.json()["status"]) == (200, "in_progress")


async def test_concurrent_users_and_workers_keep_the_database_consistent(
    client: httpx.AsyncClient, connection: asyncpg.Connection, database: str
) -> None:
    ids = [(await create_task(client, handler="noop"))["id"] for _ in range(6)]
    done = asyncio.Event()

    async def work() -> int:
        own = await asyncpg.connect(database)
        worker, finished = await add_worker(own), 0
        while not done.is_set():
            claims = await claim(own, worker, Bounds(["default"]), 3, start_at_once=True)
            finished += len(
                await finish(
                    own, worker, [Finished(c.task_id, c.fence, Outcome.FAILED) for c in claims]
                )
            )
        await own.close()
        return finished

    async def interfere(key: str) -> None:
        for n in range(12):
            for path, body in (
                (":retry", None),
                (":cancel", None),
                ("", {"priority": ["low", "high"][n % 2]}),
            ):
                url = f"{TASKS}/{key}{path}"
                response = await (client.post(url) if path else client.patch(url, json=body))
                assert response.status_code in (200, 202, 409), response.text

    workers = [asyncio.create_task(work()) for _ in range(2)]
    await asyncio.gather(*(interfere(key) for key in ids for _ in range(2)))
    done.set()
    assert sum(await asyncio.gather(*workers)) > 0
