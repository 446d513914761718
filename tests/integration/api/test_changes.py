"""Changing tasks: fields, statuses, ETags, held tasks, and many clients at once."""

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
from tests.integration.api.test_tasks import TASKS, Hold, create
from tests.support.tasks import add_worker, quiet_wakeups
from tests.support.waiting import eventually

pytestmark = pytest.mark.asyncio


async def queue_row(connection: asyncpg.Connection) -> dict[str, Any] | None:
    row = await connection.fetchrow(
        "SELECT state, queue, priority, handler, max_attempts, attempt, fence FROM queue"
    )
    return dict(row) if row else None


async def test_a_patch_changes_what_it_names_and_null_clears(client: httpx.AsyncClient) -> None:
    task = await create(
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


async def test_a_change_that_changes_nothing_leaves_version_and_history(
    client: httpx.AsyncClient,
) -> None:
    task = await create(client, due_date=(datetime.now(UTC) + timedelta(days=1)).isoformat())
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
async def test_a_payload_that_python_takes_for_equal_is_another_one(
    client: httpx.AsyncClient, before: Any, after: Any
) -> None:
    task = await create(client, payload=before)
    answer = await client.patch(f"{TASKS}/{task['id']}", json={"payload": after})
    assert json.dumps(answer.json()["payload"]) == json.dumps(after)
    assert answer.json()["version"] == task["version"] + 1


async def test_a_change_of_a_task_that_waits_leaves_it_its_place(
    client: httpx.AsyncClient, connection: asyncpg.Connection
) -> None:
    task = await create(client, handler="noop")
    await connection.execute("UPDATE queue SET run_at = run_at - interval '10 minutes'")
    since = await connection.fetchval("SELECT run_at FROM queue")
    answer = await client.patch(
        f"{TASKS}/{task['id']}", json={"timeout_seconds": 60, "priority": "low"}
    )
    assert answer.status_code == 200
    assert await connection.fetchval("SELECT run_at FROM queue") == since
    await client.patch(f"{TASKS}/{task['id']}", json={"run_at": None})
    assert await connection.fetchval("SELECT run_at FROM queue") > since


async def test_a_retry_of_a_task_that_waits_for_its_next_attempt_gives_it_all_back(
    client: httpx.AsyncClient, connection: asyncpg.Connection
) -> None:
    task = await create(client, handler="noop")
    await connection.execute(
        "UPDATE queue SET attempt = 4, losses = 2, alone = true, run_at = now() + interval '1 hour'"
    )
    answer = await client.post(f"{TASKS}/{task['id']}:retry")
    assert (answer.status_code, answer.json()["status"], answer.json()["attempt"]) == (
        200,
        "pending",
        0,
    )
    row = await connection.fetchrow(
        "SELECT attempt, losses, alone, run_at <= clock_timestamp() FROM queue"
    )
    assert tuple(row) == (0, 0, False, True)


async def test_a_retry_takes_back_a_cancel_that_the_worker_did_not_get_to(
    client: httpx.AsyncClient, connection: asyncpg.Connection
) -> None:
    """The attempt failed by itself before its worker heard of the cancel: the task waits, and is asked for again."""
    task = await create(client, handler="noop")
    worker = await add_worker(connection)
    [held] = await claim(connection, worker, Bounds(["default"]), 1, start_at_once=True)
    assert (await client.post(f"{TASKS}/{task['id']}:cancel")).status_code == 202
    failed = GivenBack(held.task_id, held.fence, Outcome.FAILED, error="no", delay_seconds=60)
    assert await give_back(connection, worker, [failed])
    answer = (await client.post(f"{TASKS}/{task['id']}:retry")).json()
    assert (answer["status"], answer["cancel_requested_at"]) == ("pending", None)
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
async def test_what_an_import_brought_may_be_sent_back_but_not_be_set(
    client: httpx.AsyncClient, connection: asyncpg.Connection, field: str, kept: Any, new: Any
) -> None:
    task = await create(client)
    await connection.execute(f"UPDATE tasks SET {field} = $1 WHERE id = $2", kept, UUID(task["id"]))
    answer = await client.patch(f"{TASKS}/{task['id']}", json={field: kept, "priority": "urgent"})
    assert (answer.status_code, answer.json()[field], answer.json()["priority"]) == (
        200,
        kept,
        "urgent",
    )
    refused = await client.patch(f"{TASKS}/{task['id']}", json={field: new})
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, field)


async def test_a_due_date_that_has_passed_may_stay_but_not_be_set(
    client: httpx.AsyncClient, connection: asyncpg.Connection
) -> None:
    task = await create(client)
    url = f"{TASKS}/{task['id']}"
    await connection.execute("UPDATE tasks SET due_date = '2020-01-01T00:00:00Z'")
    assert (
        await client.patch(url, json={"due_date": "2020-01-01T00:00:00Z", "title": "b"})
    ).status_code == 200
    refused = await client.patch(url, json={"due_date": "2020-01-02T00:00:00Z"})
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "due_date")


async def test_a_waiting_task_takes_its_changes_to_the_queue(
    client: httpx.AsyncClient, connection: asyncpg.Connection
) -> None:
    task = await create(client, handler="noop")
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


async def test_a_task_passes_from_a_worker_to_a_person_and_back(
    client: httpx.AsyncClient, connection: asyncpg.Connection
) -> None:
    task = await create(client, handler="noop")
    url = f"{TASKS}/{task['id']}"
    assert (await client.patch(url, json={"handler": None})).json()["status"] == "pending"
    assert await queue_row(connection) is None
    assert (await client.patch(url, json={"handler": "noop"})).json()["status"] == "pending"
    assert await queue_row(connection) is not None
    assert (await client.patch(url, json={"status": "in_progress"})).json()[
        "status"
    ] == "in_progress"
    assert await queue_row(connection) is None


async def test_a_finished_task_that_is_opened_again_has_all_its_attempts_and_a_higher_fence(
    client: httpx.AsyncClient, connection: asyncpg.Connection, held: Hold
) -> None:
    task = await create(client, handler="noop")
    url = f"{TASKS}/{task['id']}"
    claimed = await held(task["id"])
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
    assert (await held(task["id"])).fence == 2
    assert not await finish(connection, worker, [Finished(claimed.task_id, 1, Outcome.COMPLETED)])


async def test_a_person_may_decide_over_a_finished_run(
    client: httpx.AsyncClient, connection: asyncpg.Connection, held: Hold
) -> None:
    task = await create(client, handler="noop")
    claimed = await held(task["id"])
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
async def test_an_impossible_change_of_status_says_which_are_allowed(
    client: httpx.AsyncClient, status: str, wanted: str, allowed: list[str]
) -> None:
    task = await create(client, status=status)
    answer = await client.patch(f"{TASKS}/{task['id']}", json={"status": wanted})
    assert (answer.status_code, answer.json()["code"]) == (409, "invalid_transition")
    assert answer.json()["allowed"] == allowed


async def test_a_held_task_can_be_described_and_cancelled_but_not_run_otherwise(
    client: httpx.AsyncClient, connection: asyncpg.Connection, held: Hold
) -> None:
    task = await create(client, handler="noop")
    url = f"{TASKS}/{task['id']}"
    await held(task["id"])
    assert (
        await client.patch(url, json={"title": "b", "tags": ["x"], "assigned_to": "ada"})
    ).status_code == 200
    for change in (
        {"handler": "other"}, {"queue": "mail"}, {"payload": 1}, {"run_at": "2030-01-01T00:00:00Z"},
        {"max_attempts": 9},
        {"timeout_seconds": 9}, {"priority": "low"}, {"status": "completed"}, {"status": "pending"},
    ):  # fmt: skip
        answer = await client.patch(url, json=change)
        assert (answer.status_code, answer.json()["code"]) == (409, "held_by_worker"), change
    assert answer.json()["allowed"] == ["cancelled"]
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


async def test_a_stale_etag_is_refused_and_says_the_present_one(client: httpx.AsyncClient) -> None:
    task = await create(client)
    url = f"{TASKS}/{task['id']}"
    first = (await client.get(url)).headers["etag"]
    second = (await client.patch(url, json={"title": "b"}, headers={"If-Match": first})).headers[
        "etag"
    ]
    for answer in (
        await client.patch(url, json={"title": "c"}, headers={"If-Match": first}),
        await client.delete(url, headers={"If-Match": first}),
        await client.post(f"{url}:cancel", headers={"If-Match": first}),
    ):
        assert (answer.status_code, answer.json()["code"], answer.json()["current_etag"]) == (
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


async def test_what_a_worker_does_makes_an_etag_stale_and_a_new_conversation_does_not(
    client: httpx.AsyncClient, connection: asyncpg.Connection, held: Hold
) -> None:
    task = await create(client, handler="noop")
    url = f"{TASKS}/{task['id']}"
    etag = (await client.get(url)).headers["etag"]
    await client.post(f"{url}/conversations", json={"body": 1})
    assert (
        await client.patch(url, json={"title": "a task"}, headers={"If-Match": etag})
    ).status_code == 200
    await held(task["id"])
    assert (await client.post(f"{url}:cancel", headers={"If-Match": etag})).status_code == 412


async def test_sixteen_clients_that_use_etags_lose_no_update(client: httpx.AsyncClient) -> None:
    task = await create(client, payload=0, handler="noop", queue="unserved")
    url = f"{TASKS}/{task['id']}"

    async def add_one() -> int:
        for tries in range(1, 200):
            read = await client.get(url)
            change = {"payload": read.json()["payload"] + 1}
            answer = await client.patch(
                url, json=change, headers={"If-Match": read.headers["etag"]}
            )
            if answer.status_code == 200:
                return tries
            assert answer.status_code == 412
        raise AssertionError("never got through")

    tries = await asyncio.gather(*(add_one() for _ in range(16)))
    assert (await client.get(url)).json()["payload"] == 16
    assert sum(tries) > 16, "nobody was ever stale: the clients did not compete"


async def test_a_change_that_meets_a_task_entering_the_queue_starts_again_and_locks_it_there(
    client: httpx.AsyncClient, connection: asyncpg.Connection, database: str
) -> None:
    task = await create(client, handler="noop", status="completed")
    key = UUID(task["id"])
    other = await asyncpg.connect(database)
    async with other.transaction():  # somebody opens the task again, and has not committed yet
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
    answer = await change
    await other.close()
    assert (answer.status_code, answer.json()["status"]) == (200, "in_progress")
    assert await queue_row(connection) is None


async def test_a_change_that_a_deadlock_has_broken_off_is_done_again(
    client: httpx.AsyncClient, connection: asyncpg.Connection, database: str
) -> None:
    task = await create(client, handler="noop")
    key = UUID(task["id"])
    other = await asyncpg.connect(database)
    await other.execute("SET deadlock_timeout = '1h'")  # the request is the one that is broken off
    async with other.transaction():  # locks in the wrong order: the task before its queue row
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
    answer = await change
    await other.close()
    assert (answer.status_code, answer.json()["status"]) == (200, "in_progress")


async def test_people_and_workers_at_once_leave_the_database_consistent(
    client: httpx.AsyncClient, connection: asyncpg.Connection, database: str
) -> None:
    ids = [(await create(client, handler="noop"))["id"] for _ in range(6)]
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

    async def meddle(key: str) -> None:
        for n in range(12):
            for path, body in (
                (":retry", None),
                (":cancel", None),
                ("", {"priority": ["low", "high"][n % 2]}),
            ):
                url = f"{TASKS}/{key}{path}"
                answer = await (client.post(url) if path else client.patch(url, json=body))
                assert answer.status_code in (200, 202, 409), answer.text

    workers = [asyncio.create_task(work()) for _ in range(2)]
    await asyncio.gather(*(meddle(key) for key in ids for _ in range(2)))
    done.set()
    assert sum(await asyncio.gather(*workers)) > 0
