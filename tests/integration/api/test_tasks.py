"""Creation, reads and deletion of tasks."""

from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import httpx
import pytest
from pydantic import BaseModel

from task_service.api.routes.queues import Queues, Workers
from task_service.domain.outcomes import Outcome
from task_service.domain.progress import Progress
from task_service.queue.results import Finished, ProgressReport, finish, record_progress
from task_service.schemas.responses import Conversation, HistoryEvent, Page, Run, Task, TaskItem
from tests.support.task_api import TASKS, ClaimTask, create_task

pytestmark = pytest.mark.asyncio


async def test_create_returns_location_and_etag_of_the_task(
    client: httpx.AsyncClient,
) -> None:
    due = datetime.now(UTC) + timedelta(days=1)
    fields = {
        "title": "  Ring Ada ", "description": "soon", "priority": "HIGH", "assigned_to": "ada",
        "due_date": due.isoformat(), "tags": ["Home", "home", " garden "], "queue": "mail",
        "payload": {"big": 2**70, "deep": [{"a": None}]}, "max_attempts": 3, "timeout_seconds": 60,
    }  # fmt: skip
    created = await client.post(TASKS, json=fields)
    assert created.status_code == 201
    task = created.json()
    assert task["title"] == "Ring Ada"
    assert task["priority"] == "high"
    assert task["tags"] == ["Home", "garden"]
    assert task["payload"] == fields["payload"]
    assert datetime.fromisoformat(task["due_date"]) == due
    assert (task["status"], task["handler"], task["attempt"], task["version"]) == (
        "pending",
        None,
        0,
        1,
    )
    read = await client.get(created.headers["location"])
    assert read.json() == task
    assert read.headers["etag"] == created.headers["etag"]
    assert str(task["id"])[14] == "7"


async def test_task_with_a_handler_is_queued_with_its_conversations(
    client: httpx.AsyncClient, connection: asyncpg.Connection
) -> None:
    task = await create_task(
        client,
        handler="noop",
        priority="urgent",
        conversations=[{"body": "one"}, {"body": {"n": 2}}],
    )
    row = await connection.fetchrow(
        "SELECT state, priority, handler, max_attempts, timeout_seconds FROM queue"
    )
    assert dict(row or {}) == {
        "state": "ready", "priority": 0, "handler": "noop", "max_attempts": 5, "timeout_seconds": None
    }  # fmt: skip
    assert task["conversation_count"] == 2
    listed = (await client.get(f"{TASKS}/{task['id']}/conversations")).json()["items"]
    assert [c["body"] for c in listed] == ["one", {"n": 2}]


async def test_manual_task_is_not_queued(
    client: httpx.AsyncClient, connection: asyncpg.Connection
) -> None:
    task = await create_task(client, status="In-Progress", handler="noop")
    assert task["status"] == "in_progress"
    await create_task(client)
    assert await connection.fetchval("SELECT count(*) FROM queue") == 0


async def test_task_created_as_completed_has_consistent_times(
    client: httpx.AsyncClient,
) -> None:
    task = await create_task(client, status="completed")
    assert datetime.fromisoformat(task["created_at"]) <= datetime.fromisoformat(
        task["processed_at"]
    )


@pytest.mark.parametrize("handler", ["noop", None])
async def test_task_with_a_future_run_at_is_scheduled(
    client: httpx.AsyncClient, handler: str | None
) -> None:
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    task = await create_task(client, handler=handler, run_at=later)
    assert task["status"] == "scheduled"
    history = (await client.get(f"{TASKS}/{task['id']}/history")).json()["items"]
    assert [e["new_status"] for e in history] == ["scheduled"]


async def test_if_none_match_returns_304_for_an_unchanged_task(client: httpx.AsyncClient) -> None:
    task = await create_task(client)
    url = f"{TASKS}/{task['id']}"
    etag = (await client.get(url)).headers["etag"]
    unchanged = await client.get(url, headers={"If-None-Match": f'"other", W/{etag}'})
    assert (unchanged.status_code, unchanged.content, unchanged.headers["etag"]) == (304, b"", etag)
    await client.post(f"{url}/conversations", json={"body": "new"})
    assert (await client.get(url, headers={"If-None-Match": etag})).json()[
        "conversation_count"
    ] == 1


async def test_deleted_task_is_cancelled_and_hidden_everywhere(
    client: httpx.AsyncClient, connection: asyncpg.Connection
) -> None:
    task = await create_task(client, handler="noop", conversations=[{"body": 1}])
    url = f"{TASKS}/{task['id']}"
    conversation = (await client.get(f"{url}/conversations")).json()["items"][0]["id"]
    assert (await client.delete(url)).status_code == 204
    paths = (
        url,
        f"{url}/history",
        f"{url}/runs",
        f"{url}/conversations",
        f"/api/v1/conversations/{conversation}",
    )
    assert [(await client.get(path)).status_code for path in paths] == [404] * 5
    refused = [
        await client.delete(url),
        await client.patch(url, json={"title": "x"}),
        await client.post(f"{url}/conversations", json={"body": 1}),
        await client.put(f"/api/v1/conversations/{conversation}", json={"body": 2}),
        await client.delete(f"/api/v1/conversations/{conversation}"),
    ]
    assert [response.status_code for response in refused] == [404] * 5
    assert (await client.get(TASKS)).json()["items"] == []
    assert await connection.fetchval("SELECT count(*) FROM queue") == 0
    assert await connection.fetchval("SELECT status FROM task_view") == "cancelled"
    assert (
        await connection.fetchval("SELECT new_status FROM task_history ORDER BY id DESC LIMIT 1")
        == "deleted"
    )


async def test_delete_of_a_claimed_task_requests_cancel_and_records_its_run(
    client: httpx.AsyncClient, connection: asyncpg.Connection, claim_task: ClaimTask
) -> None:
    task = await create_task(client, handler="noop")
    claimed = await claim_task(task["id"])
    assert (await client.delete(f"{TASKS}/{task['id']}")).status_code == 204
    assert await connection.fetchval("SELECT cancel_requested_at IS NOT NULL FROM queue")
    worker = await connection.fetchval("SELECT worker_id FROM queue")
    assert await finish(
        connection, worker, [Finished(claimed.task_id, claimed.fence, Outcome.COMPLETED)]
    )


async def test_hard_delete_leaves_only_the_history(
    client: httpx.AsyncClient, connection: asyncpg.Connection
) -> None:
    task = await create_task(client, handler="noop", conversations=[{"body": 1}])
    gone = await create_task(client)
    await client.delete(f"{TASKS}/{gone['id']}")
    for key in (task["id"], gone["id"]):
        assert (await client.delete(f"{TASKS}/{key}?hard=true")).status_code == 204
    counts = [
        await connection.fetchval(f"SELECT count(*) FROM {t}")
        for t in ("tasks", "queue", "conversations", "runs")
    ]
    assert counts == [0, 0, 0, 0]
    assert await connection.fetchval("SELECT count(*) FROM task_history") == 5


async def test_hard_delete_of_a_claimed_task_invalidates_the_claim(
    client: httpx.AsyncClient, connection: asyncpg.Connection, claim_task: ClaimTask
) -> None:
    task = await create_task(client, handler="noop")
    claimed = await claim_task(task["id"])
    worker = await connection.fetchval("SELECT worker_id FROM queue")
    assert (await client.delete(f"{TASKS}/{task['id']}?hard=true")).status_code == 204
    assert not await finish(
        connection, worker, [Finished(claimed.task_id, claimed.fence, Outcome.COMPLETED)]
    )
    assert await connection.fetchval("SELECT count(*) FROM runs") == 0


async def test_runs_and_history_show_the_work_of_workers_and_users(
    client: httpx.AsyncClient, connection: asyncpg.Connection, claim_task: ClaimTask
) -> None:
    task = await create_task(client, handler="noop")
    url = f"{TASKS}/{task['id']}"
    claimed = await claim_task(task["id"])
    shown = (await client.get(url)).json()
    worker = await connection.fetchval("SELECT worker_id FROM queue")
    assert (shown["status"], shown["attempt"], shown["processing_instance_id"]) == (
        "processing",
        1,
        str(worker),
    )
    end = Finished(claimed.task_id, claimed.fence, Outcome.COMPLETED, result='{"sum": 3}')
    await finish(connection, worker, [end])
    done = (await client.get(url)).json()
    assert (done["status"], done["result"], done["processed_at"] is not None) == (
        "completed",
        {"sum": 3},
        True,
    )
    [run] = (await client.get(f"{url}/runs")).json()["items"]
    assert (run["fence"], run["outcome"], run["final"], run["worker_id"]) == (
        1,
        "completed",
        True,
        str(worker),
    )
    await client.post(f"{url}:retry", json={"reason": "try again"})
    first = (await client.get(f"{url}/history?limit=2")).json()
    rest = (await client.get(f"{url}/history", params={"cursor": first["next_cursor"]})).json()
    events = [
        (e["kind"], e["previous_status"], e["new_status"], e["by"], e["reason"])
        for e in first["items"] + rest["items"]
    ]
    assert events == [
        ("change", None, "pending", "anonymous", None),
        ("run", "processing", "completed", str(worker), "completed"),
        ("change", "completed", "pending", "anonymous", "try again"),
    ]


async def test_responses_have_exactly_the_documented_fields(
    client: httpx.AsyncClient, connection: asyncpg.Connection, claim_task: ClaimTask
) -> None:
    task = await create_task(client, handler="noop", conversations=[{"body": 1}])
    url = f"{TASKS}/{task['id']}"
    claimed = await claim_task(task["id"])
    workers = (await client.get("/api/v1/workers")).json()
    worker = await connection.fetchval("SELECT worker_id FROM queue")
    queues = (await client.get("/api/v1/queues")).json()
    await finish(
        connection, worker, [Finished(claimed.task_id, claimed.fence, Outcome.FAILED, error="no")]
    )

    async def items(path: str) -> Any:
        return (await client.get(path)).json()["items"][0]

    shown: dict[type[BaseModel], Any] = {
        Task: (await client.get(url)).json(),
        TaskItem: await items(TASKS),
        Conversation: await items(f"{url}/conversations"),
        HistoryEvent: await items(f"{url}/history"),
        Run: await items(f"{url}/runs"),
        Queues: queues,
        Workers: workers,
        type(Workers.model_validate(workers).workers[0]): workers["workers"][0],
        type(Queues.model_validate(queues).queues[0]): queues["queues"][0],
    }
    for model, content in shown.items():
        model.model_validate(content)
        assert set(content) == set(model.model_fields), model
    Page[TaskItem].model_validate((await client.get(TASKS)).json())


async def test_progress_changes_the_etag_but_if_match_still_accepts_the_old_one(
    client: httpx.AsyncClient, connection: asyncpg.Connection, claim_task: ClaimTask
) -> None:
    task = await create_task(client, handler="noop")
    one = f"{TASKS}/{task['id']}"
    assert task["progress"] is None
    claim = await claim_task(task["id"])
    before = await client.get(one)
    assert before.json()["progress"] is None
    worker = await connection.fetchval("SELECT worker_id FROM queue")
    assert await record_progress(
        connection,
        worker,
        [ProgressReport(claim.task_id, claim.fence, Progress(0.4, "half of it"))],
    )
    shown = await client.get(one, headers={"If-None-Match": before.headers["etag"]})
    assert shown.status_code == 200
    progress = Task.model_validate_json(shown.content).progress
    assert progress is not None
    assert (progress.fraction, progress.note) == (0.4, "half of it")
    assert "progress" not in (await client.get(TASKS)).json()["items"][0]
    assert (
        await client.get(one, headers={"If-None-Match": shown.headers["etag"]})
    ).status_code == 304
    guard = {"If-Match": before.headers["etag"]}
    assert (await client.patch(one, json={"title": "b"}, headers=guard)).status_code == 200
    await finish(connection, worker, [Finished(claim.task_id, claim.fence, Outcome.COMPLETED)])
    assert (await client.get(one)).json()["progress"] is None
