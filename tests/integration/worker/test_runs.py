"""Outcomes of runs for everything that a handler can do."""

import asyncio
import threading
from typing import Any

import asyncpg
import pytest

from task_service.queue import entries
from task_service.worker.handlers import (
    Cancel,
    Context,
    Discard,
    LostClaimError,
    Retry,
    Snooze,
    handler,
)
from task_service.worker.runner import AHEAD_SECONDS
from tests.support.tasks import add_tasks, statuses
from tests.support.waiting import eventually
from tests.support.worker_runs import StartWorker, wait_for_end

pytestmark = pytest.mark.asyncio


async def test_coroutine_and_function_complete_with_their_results(
    connection: asyncpg.Connection, start_worker: StartWorker
) -> None:
    @handler("coroutine")
    async def coroutine(context: Context) -> Any:
        return {"doubled": context.payload["n"] * 2}

    @handler("function")
    def function(context: Context) -> Any:
        return [threading.current_thread() is not threading.main_thread(), context.attempt]

    await start_worker(coroutine, function)
    [first] = await add_tasks(connection, handler="coroutine", payload={"n": 21})
    [second] = await add_tasks(connection, handler="function")
    assert (await wait_for_end(connection, first))["result"] == '{"doubled": 42}'
    assert (await wait_for_end(connection, second))["result"] == "[true, 1]"
    assert await statuses(connection, [first, second]) == ["completed", "completed"]


async def test_failure_is_retried_until_no_attempt_is_left(
    connection: asyncpg.Connection, start_worker: StartWorker
) -> None:
    @handler("bad")
    async def bad(_: Context) -> None:
        raise ValueError("no \N{SNOWMAN}, and a \x00")

    await start_worker(bad)
    [task] = await add_tasks(connection, handler="bad", max_attempts=3)
    end = await wait_for_end(connection, task)
    assert (end["outcome"], end["attempt"], end["fence"]) == ("failed", 3, 3)
    runs = await connection.fetch("SELECT error, final FROM runs ORDER BY fence")
    assert [r["final"] for r in runs] == [False, False, True]
    assert all("ValueError: no \N{SNOWMAN}, and a \\0" in r["error"] for r in runs)


class UnreadableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    "error",
    [
        SystemExit(3),
        KeyboardInterrupt(),
        BaseException("odd"),
        UnreadableError(),
        GeneratorExit(),
        Exception("\ud800"),
    ],
)
@pytest.mark.parametrize("threaded", [False, True])
async def test_worker_continues_after_any_exception_of_a_handler(
    connection: asyncpg.Connection, start_worker: StartWorker, error: BaseException, threaded: bool
) -> None:
    @handler("odd")
    async def odd(_: Context) -> None:
        raise error

    @handler("odd")
    def odd_function(_: Context) -> None:
        raise error

    @handler("noop")
    async def noop(_: Context) -> None:
        return None

    await start_worker(odd_function if threaded else odd, noop)
    [task] = await add_tasks(connection, handler="odd", max_attempts=1)
    assert (await wait_for_end(connection, task))["outcome"] == "failed"
    [after] = await add_tasks(connection)
    assert (await wait_for_end(connection, after))["outcome"] == "completed"


@pytest.mark.parametrize("value", [object(), {1, 2}, "x" * 300_000, "\ud800", "a\x00b"])
async def test_unserializable_result_fails_only_its_own_attempt(
    connection: asyncpg.Connection, start_worker: StartWorker, value: Any
) -> None:
    @handler("returns")
    async def returns(context: Context) -> Any:
        return value if context.payload else "fine"

    good = await add_tasks(connection, 5, handler="returns")
    [bad] = await add_tasks(connection, handler="returns", payload=True, max_attempts=1)
    await start_worker(returns)
    end = await wait_for_end(connection, bad)
    assert end["outcome"] == "failed"
    assert end["error"]
    assert [(await wait_for_end(connection, g))["outcome"] for g in good] == ["completed"] * 5


async def test_handler_can_snooze_retry_cancel_and_discard(
    connection: asyncpg.Connection, start_worker: StartWorker
) -> None:
    @handler("control")
    async def control(context: Context) -> str:
        if context.fence == 1:
            raise {
                "snooze": Snooze(0),
                "retry": Retry(0),
                "cancel": Cancel("why"),
                "discard": Discard("why"),
            }[context.payload]
        return f"attempt {context.attempt}"

    await start_worker(control)
    tasks = {
        name: (await add_tasks(connection, handler="control", payload=name))[0]
        for name in ("snooze", "retry", "cancel", "discard")
    }
    ends = {name: await wait_for_end(connection, task) for name, task in tasks.items()}
    assert ends["snooze"]["result"] == '"attempt 1"', "a snoozed attempt does not count"
    assert ends["retry"]["result"] == '"attempt 2"'
    assert (ends["cancel"]["outcome"], ends["discard"]["outcome"]) == ("cancelled", "discarded")
    assert await statuses(connection, [tasks["cancel"], tasks["discard"]]) == [
        "cancelled",
        "failed",
    ]


@pytest.mark.parametrize("threaded", [False, True])
async def test_run_that_exceeds_its_time_limit_times_out(
    connection: asyncpg.Connection, start_worker: StartWorker, threaded: bool
) -> None:
    ended = threading.Event()

    @handler("slow")
    async def slow(_: Context) -> None:
        await asyncio.Event().wait()

    @handler("slow")
    def slow_function(_: Context) -> None:
        ended.wait(30)

    worker = await start_worker(slow_function if threaded else slow, default_timeout_seconds=1)
    [task] = await add_tasks(connection, handler="slow", max_attempts=1)
    assert (await wait_for_end(connection, task))["outcome"] == "timed_out"
    if threaded:
        assert worker.runner.running, "a running thread keeps its slot"
        ended.set()
    await asyncio.wait_for(worker.runner.until_idle(), 10)


async def test_cancelled_task_is_interrupted_and_ends_as_cancelled(
    connection: asyncpg.Connection, start_worker: StartWorker
) -> None:
    running = asyncio.Event()

    @handler("long")
    async def long(_: Context) -> None:
        running.set()
        await asyncio.Event().wait()

    await start_worker(long)
    [task] = await add_tasks(connection, handler="long")
    await running.wait()
    assert await entries.request_cancel(connection, task)
    assert (await wait_for_end(connection, task))["outcome"] == "cancelled"


async def test_task_with_an_unknown_handler_is_released_without_counting(
    connection: asyncpg.Connection, start_worker: StartWorker
) -> None:
    await start_worker()
    [task] = await add_tasks(connection, handler="unheard")

    async def find_run() -> asyncpg.Record | None:
        return await connection.fetchrow(
            "SELECT outcome, reason FROM runs WHERE task_id = $1", task
        )

    run = await eventually("the release", find_run)
    assert (run["outcome"], run["reason"]) == ("released", "unknown_handler")
    row = await connection.fetchrow("SELECT attempt, state, run_at > now() AS later FROM queue")
    assert dict(row or {}) == {"attempt": 0, "state": "ready", "later": True}


async def test_completion_in_the_handlers_transaction_is_one_commit(
    connection: asyncpg.Connection, start_worker: StartWorker
) -> None:
    await connection.execute("CREATE TABLE effects (task_id uuid)")

    @handler("writes")
    async def writes(context: Context) -> None:
        async with context.transaction() as transaction:
            await transaction.connection.execute("INSERT INTO effects VALUES ($1)", context.task_id)
            await transaction.complete({"done": True})

    await start_worker(writes)
    [task] = await add_tasks(connection, handler="writes")
    assert (await wait_for_end(connection, task))["result"] == '{"done": true}'
    assert await connection.fetchval("SELECT count(*) FROM effects") == 1
    assert await connection.fetchval("SELECT count(*) FROM runs") == 1


async def test_error_in_the_transaction_rolls_back_the_completion(
    connection: asyncpg.Connection, start_worker: StartWorker
) -> None:
    @handler("writes")
    async def writes(context: Context) -> None:
        async with context.transaction() as transaction:
            await transaction.complete()
            raise ValueError("after all, no")

    await start_worker(writes)
    [task] = await add_tasks(connection, handler="writes", max_attempts=1)
    end = await wait_for_end(connection, task)
    assert end["outcome"] == "failed"
    assert "after all, no" in end["error"]


async def test_threaded_handler_can_use_the_transaction_through_wait(
    connection: asyncpg.Connection, start_worker: StartWorker
) -> None:
    @handler("threaded")
    def threaded(context: Context) -> Any:
        async def in_transaction() -> int:
            async with context.transaction() as transaction:
                return int(await transaction.connection.fetchval("SELECT 7"))

        return context.wait(in_transaction())

    await start_worker(threaded)
    [task] = await add_tasks(connection, handler="threaded")
    assert (await wait_for_end(connection, task))["result"] == "7"


async def test_handler_without_its_claim_cannot_write_in_its_transaction(
    connection: asyncpg.Connection, start_worker: StartWorker
) -> None:
    await connection.execute("CREATE TABLE effects (fence bigint)")
    running, overtaken, rejected = asyncio.Event(), asyncio.Event(), asyncio.Event()

    @handler("overtaken")
    async def overtaken_handler(context: Context) -> None:
        running.set()
        await overtaken.wait()
        try:
            async with context.transaction() as transaction:
                await transaction.connection.execute(
                    "INSERT INTO effects VALUES ($1)", context.fence
                )
        except LostClaimError:
            rejected.set()
            raise

    await start_worker(overtaken_handler, heartbeat_seconds=5, lease_seconds=60)
    [task] = await add_tasks(connection, handler="overtaken")
    await running.wait()
    await connection.execute("UPDATE queue SET fence = fence + 1 WHERE task_id = $1", task)
    overtaken.set()
    await asyncio.wait_for(rejected.wait(), 10)
    assert await connection.fetchval("SELECT count(*) FROM effects") == 0


async def test_worker_prefetches_only_tasks_that_it_can_start_soon(
    connection: asyncpg.Connection, start_worker: StartWorker
) -> None:
    @handler("short")
    async def short(_: Context) -> None:
        await asyncio.sleep(AHEAD_SECONDS / 2)

    await start_worker(short, worker_concurrency=2)
    await add_tasks(connection, 1000, handler="short")
    held: list[int] = []

    async def has_prefetched() -> bool:
        held.append(await connection.fetchval("SELECT count(*) FROM queue WHERE state = 'running'"))
        return held[-1] > 2

    await eventually("prefetched tasks", has_prefetched)
    for _ in range(20):
        await has_prefetched()
    assert max(held) < 50, "enough for the slots and for ends that are not reported yet"
