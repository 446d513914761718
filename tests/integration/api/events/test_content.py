"""The content of events, and the filters of streams."""

import asyncio
from uuid import uuid4

import asyncpg
import httpx
import pytest

from task_service.api.http import sse
from task_service.domain.outcomes import Outcome
from task_service.queue.results import Finished, GivenBack, finish, give_back
from tests.support.event_streams import EVENTS
from tests.support.problems import check_problem
from tests.support.sse import open_stream
from tests.support.task_api import TASKS, ClaimTask, create_task

pytestmark = pytest.mark.asyncio


async def test_changes_of_users_arrive_in_order_with_all_fields(
    api: httpx.AsyncClient, url: str
) -> None:
    async with open_stream(url + EVENTS) as stream:
        task = await create_task(api)
        await stream.wait_for_count(1)
        await api.patch(f"{TASKS}/{task['id']}", json={"title": "b", "reason": "because\nof that"})
        await api.patch(f"{TASKS}/{task['id']}", json={"status": "in_progress"})
        await api.patch(f"{TASKS}/{task['id']}", json={"status": "completed"})
        await stream.wait_for_count(4)
        assert stream.summaries() == [
            (task["id"], n) for n in ("created", "changed", "changed", "completed")
        ]
        event = stream.messages[1].data
        assert event | {"at": None} == {
            "event": "task.changed", "task_id": task["id"], "at": None,
            "previous_status": "pending", "status": "pending", "by": "anonymous",
            "reason": "because\nof that", "fields": ["title"],
            "attempt": None, "queue": "default", "handler": None,
        }  # fmt: skip
        assert event["at"].endswith("Z")
        assert stream.retry_ms == sse.RETRY_MS
        assert stream.response.headers["cache-control"] == "no-store"
        assert stream.response.headers["x-accel-buffering"] == "no"
        assert "content-encoding" not in stream.response.headers
        assert "content-length" not in stream.response.headers


async def test_ends_of_attempts_have_their_outcome_and_worker(
    api: httpx.AsyncClient,
    url: str,
    claim_task: ClaimTask,
    connection: asyncpg.Connection,
) -> None:
    async with open_stream(url + EVENTS) as stream:
        task = await create_task(api, handler="noop")
        claim = await claim_task(task["id"])
        worker = await connection.fetchval("SELECT worker_id FROM queue")
        back = GivenBack(claim.task_id, claim.fence, Outcome.FAILED, error="no")
        await give_back(connection, worker, [back])
        other = await claim_task(task["id"])
        holder = await connection.fetchval("SELECT worker_id FROM queue")
        await finish(connection, holder, [Finished(other.task_id, other.fence, Outcome.COMPLETED)])
        await stream.wait_for_count(3)
        assert stream.summaries() == [(task["id"], n) for n in ("created", "requeued", "completed")]
        assert [m.data["by"] for m in stream.messages[1:]] == [str(worker), str(holder)]
        assert [m.data["status"] for m in stream.messages] == [
            "pending",
            "pending",
            "completed",
        ]
        assert [m.data["attempt"] for m in stream.messages] == [None, 1, 2]
        assert stream.messages[-1].id.endswith(f".{task['id']}.2")
    async with open_stream(url + EVENTS, stream.messages[1].id) as again:
        await again.wait_for_count(1)
        assert again.messages == stream.messages[2:]


async def test_filters_select_events(api: httpx.AsyncClient, url: str) -> None:
    async with (
        open_stream(url + EVENTS, event="task.cancelled") as cancelled,
        open_stream(url + EVENTS, status=["completed", "CANCELLED"]) as ended,
        open_stream(url + EVENTS, queue="mail") as mail,
        open_stream(url + EVENTS, handler="noop") as noop,
        open_stream(url + EVENTS) as every,
    ):
        one = await create_task(api, queue="mail", handler="noop")
        two = await create_task(api)
        await api.post(f"{TASKS}/{one['id']}:cancel")
        await api.patch(f"{TASKS}/{two['id']}", json={"status": "completed"})
        async with open_stream(url + EVENTS, "0", task_id=[two["id"], str(uuid4())]) as chosen:
            await chosen.wait_for_count(2)
        await every.wait_for_count(4)
        for stream, event in (
            (cancelled, [(one["id"], "cancelled")]),
            (ended, [(one["id"], "cancelled"), (two["id"], "completed")]),
            (mail, [(one["id"], "created"), (one["id"], "cancelled")]),
            (noop, [(one["id"], "created"), (one["id"], "cancelled")]),
            (chosen, [(two["id"], "created"), (two["id"], "completed")]),
        ):  # fmt: skip
            await stream.wait_for_count(len(event))
            assert stream.summaries() == event


async def test_only_the_deletion_of_a_deleted_task_is_sent(
    api: httpx.AsyncClient,
    url: str,
    claim_task: ClaimTask,
    connection: asyncpg.Connection,
) -> None:
    task = await create_task(api, handler="noop")
    claim = await claim_task(task["id"])
    worker = await connection.fetchval("SELECT worker_id FROM queue")
    async with open_stream(url + EVENTS) as stream:
        await api.delete(f"{TASKS}/{task['id']}")
        await finish(connection, worker, [Finished(claim.task_id, claim.fence, Outcome.CANCELLED)])
        after = await create_task(api)
        await stream.wait_for_count(2)
        assert stream.summaries() == [(task["id"], "deleted"), (after["id"], "created")]
    async with open_stream(url + EVENTS, "0") as stream:
        await stream.wait_for_count(2)
        assert stream.summaries() == [(task["id"], "deleted"), (after["id"], "created")]


async def test_hard_delete_is_sent_to_every_filter_on_queue_and_handler(
    api: httpx.AsyncClient, url: str
) -> None:
    task = await create_task(api, queue="mail", handler="noop")
    async with open_stream(url + EVENTS, queue="mail", handler="noop") as stream:
        assert (
            await api.delete(f"{TASKS}/{task['id']}", params={"hard": "true"})
        ).status_code == 204
        [event] = await stream.wait_for_count(1)
        assert (event.event, event.data["queue"], event.data["reason"]) == (
            "task.deleted",
            None,
            "hard delete",
        )
    async with open_stream(url + EVENTS, "0") as stream:
        await stream.wait_for_count(1)
        assert stream.summaries() == [(task["id"], "deleted")]


async def test_stream_of_one_task_ends_with_its_deletion(api: httpx.AsyncClient, url: str) -> None:
    task, other = await create_task(api), await create_task(api)
    path = f"{url}{TASKS}/{task['id']}/events"
    async with open_stream(path) as stream:
        await api.patch(f"{TASKS}/{other['id']}", json={"title": "b"})
        await api.patch(f"{TASKS}/{task['id']}", json={"title": "b"})
        await stream.wait_for_count(1)
        await api.delete(f"{TASKS}/{task['id']}")
        await asyncio.wait_for(stream.ended.wait(), 10)
        assert not stream.error
        assert stream.summaries() == [(task["id"], "changed"), (task["id"], "deleted")]
    check_problem(await api.get(f"{TASKS}/{task['id']}/events"), 404, "not_found")
    check_problem(await api.get(f"{TASKS}/{uuid4()}/events"), 404, "not_found")
