"""Dependents of a task that does not complete."""

from itertools import pairwise

import asyncpg
import httpx
import pytest

from task_service.domain.outcomes import Outcome
from task_service.queue import dependencies
from tests.support.dependencies import FakeWorker, create_waiter, read_task
from tests.support.task_api import TASKS, create_task

pytestmark = pytest.mark.asyncio


@pytest.mark.parametrize(
    "outcome", [Outcome.FAILED, Outcome.TIMED_OUT, Outcome.CANCELLED, Outcome.DISCARDED]
)
async def test_dependents_are_cancelled_with_the_reason_or_run_by_choice(
    client: httpx.AsyncClient, worker: FakeWorker, outcome: Outcome
) -> None:
    good, bad = await create_waiter(client), await create_waiter(client)
    cancelled = await create_waiter(client, good, bad)
    runs = await create_waiter(client, good, bad, when_failed="run")
    await worker.claim()
    await worker.end(bad, outcome)
    status = "cancelled" if outcome is Outcome.CANCELLED else "failed"
    why = f"the task {bad}, which it needs, is {status}"
    seen = await read_task(client, cancelled)
    assert (seen["status"], seen["error"], seen["waits_for"]) == ("cancelled", why, [])
    [run] = (await client.get(f"{TASKS}/{cancelled}/runs")).json()["items"]
    assert (run["outcome"], run["reason"], run["worker_id"]) == ("cancelled", why, None)
    history = (await client.get(f"{TASKS}/{cancelled}/history")).json()["items"]
    assert (history[-1]["new_status"], history[-1]["reason"]) == ("cancelled", why)
    assert (await read_task(client, runs))["waits_for"] == [good]
    assert await worker.claim() == set()
    await worker.end(good)
    assert await worker.claim() == {runs}


async def test_cancellation_spreads_to_indirect_dependents(
    client: httpx.AsyncClient, worker: FakeWorker
) -> None:
    bad = await create_waiter(client)
    chain = [bad]
    for _ in range(4):
        chain.append(await create_waiter(client, chain[-1]))
    runs = await create_waiter(client, chain[-1], when_failed="run")
    await worker.claim()
    await worker.end(bad, Outcome.FAILED)
    for before, task in pairwise(chain[1:]):
        assert (await read_task(client, task))[
            "error"
        ] == f"the task {before}, which it needs, is cancelled"
    assert await worker.claim() == {runs}


async def test_task_that_needs_a_failed_task_is_cancelled_on_creation(
    client: httpx.AsyncClient,
) -> None:
    bad = (await create_task(client, status="failed"))["id"]
    made = await create_task(client, handler="noop", needs=[bad])
    assert (made["status"], made["error"]) == (
        "cancelled",
        f"the task {bad}, which it needs, is failed",
    )
    assert (await create_task(client, handler="noop", needs=[bad], when_failed="run"))[
        "status"
    ] == "pending"


@pytest.mark.parametrize("way", ["cancel", "failed", "delete", "erase"])
@pytest.mark.parametrize("handler", [None, "noop"])
async def test_sweep_handles_ends_that_users_caused(
    client: httpx.AsyncClient,
    connection: asyncpg.Connection,
    way: str,
    handler: str | None,
) -> None:
    need = (await create_task(client, handler=handler))["id"]
    task = await create_waiter(client, need)
    match way:
        case "cancel":
            await client.post(f"{TASKS}/{need}:cancel")
        case "failed":
            await client.patch(f"{TASKS}/{need}", json={"status": "failed"})
        case _:
            await client.delete(f"{TASKS}/{need}", params={"hard": way == "erase"})
    await dependencies.sweep(connection, everything=False)
    words = {"failed": "failed", "erase": "deleted"}
    assert (await read_task(client, task))[
        "error"
    ] == f"the task {need}, which it needs, is {words.get(way, 'cancelled')}"


async def test_retry_of_a_cancelled_dependent_waits_for_nothing(
    client: httpx.AsyncClient, worker: FakeWorker
) -> None:
    bad, goes_on = await create_waiter(client), await create_waiter(client)
    task = await create_waiter(client, bad, goes_on)
    await worker.claim()
    await worker.end(bad, Outcome.FAILED)
    assert (await client.post(f"{TASKS}/{task}:retry")).json()["status"] == "pending"
    assert await worker.claim() == {task}
    await worker.end(task)
    assert (await read_task(client, task))["status"] == "completed"
