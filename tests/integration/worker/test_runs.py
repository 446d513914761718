"""What a worker makes of whatever a handler does."""

import asyncio
import threading
from typing import Any
from uuid import UUID

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
from tests.integration.worker.conftest import StartWorker
from tests.support.tasks import add_tasks, statuses
from tests.support.waiting import eventually

pytestmark = pytest.mark.asyncio


async def end_of(connection: asyncpg.Connection, task: UUID) -> dict[str, Any]:
    """The task's final run, once there is one."""

    async def final() -> asyncpg.Record | None:
        return await connection.fetchrow("SELECT * FROM runs WHERE task_id = $1 AND final", task)

    return dict(await eventually("the task's end", final))


async def test_a_coroutine_and_a_function_complete_with_their_results(
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
    assert (await end_of(connection, first))["result"] == '{"doubled": 42}'
    assert (await end_of(connection, second))["result"] == "[true, 1]"
    assert await statuses(connection, [first, second]) == ["completed", "completed"]


async def test_a_failure_is_tried_again_with_its_reason_until_the_attempts_are_used_up(
    connection: asyncpg.Connection, start_worker: StartWorker
) -> None:
    @handler("bad")
    async def bad(_: Context) -> None:
        raise ValueError("no \N{SNOWMAN}, and a \x00")

    await start_worker(bad)
    [task] = await add_tasks(connection, handler="bad", max_attempts=3)
    end = await end_of(connection, task)
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
async def test_whatever_a_handler_raises_the_worker_goes_on(
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
    assert (await end_of(connection, task))["outcome"] == "failed"
    [after] = await add_tasks(connection)
    assert (await end_of(connection, after))["outcome"] == "completed"


@pytest.mark.parametrize("value", [object(), {1, 2}, "x" * 300_000, "\ud800", "a\x00b"])
async def test_a_result_that_cannot_be_kept_fails_the_attempt_and_not_its_neighbours(
    connection: asyncpg.Connection, start_worker: StartWorker, value: Any
) -> None:
    @handler("returns")
    async def returns(context: Context) -> Any:
        return value if context.payload else "fine"

    good = await add_tasks(connection, 5, handler="returns")
    [bad] = await add_tasks(connection, handler="returns", payload=True, max_attempts=1)
    await start_worker(returns)
    end = await end_of(connection, bad)
    assert end["outcome"] == "failed"
    assert end["error"]
    assert [(await end_of(connection, g))["outcome"] for g in good] == ["completed"] * 5


async def test_a_handler_may_snooze_retry_cancel_and_discard(
    connection: asyncpg.Connection, start_worker: StartWorker
) -> None:
    @handler("word")
    async def word(context: Context) -> str:
        if context.fence == 1:
            raise {
                "snooze": Snooze(0),
                "retry": Retry(0),
                "cancel": Cancel("why"),
                "discard": Discard("why"),
            }[context.payload]
        return f"attempt {context.attempt}"

    await start_worker(word)
    tasks = {
        w: (await add_tasks(connection, handler="word", payload=w))[0]
        for w in ("snooze", "retry", "cancel", "discard")
    }
    ends = {w: await end_of(connection, t) for w, t in tasks.items()}
    assert ends["snooze"]["result"] == '"attempt 1"', "a snoozed attempt does not count"
    assert ends["retry"]["result"] == '"attempt 2"'
    assert (ends["cancel"]["outcome"], ends["discard"]["outcome"]) == ("cancelled", "discarded")
    assert await statuses(connection, [tasks["cancel"], tasks["discard"]]) == [
        "cancelled",
        "failed",
    ]


@pytest.mark.parametrize("threaded", [False, True])
async def test_a_run_that_exceeds_its_time_is_timed_out(
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
    assert (await end_of(connection, task))["outcome"] == "timed_out"
    if threaded:
        assert worker.runner.running, "a thread that goes on keeps its slot"
        ended.set()
    await asyncio.wait_for(worker.runner.until_idle(), 10)


async def test_a_cancelled_task_is_interrupted_and_ends_as_cancelled(
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
    assert (await end_of(connection, task))["outcome"] == "cancelled"


async def test_a_handler_this_worker_does_not_know_is_given_back_uncounted(
    connection: asyncpg.Connection, start_worker: StartWorker
) -> None:
    await start_worker()
    [task] = await add_tasks(connection, handler="unheard")

    async def given_back() -> asyncpg.Record | None:
        return await connection.fetchrow(
            "SELECT outcome, reason FROM runs WHERE task_id = $1", task
        )

    run = await eventually("the release", given_back)
    assert (run["outcome"], run["reason"]) == ("released", "unknown_handler")
    row = await connection.fetchrow("SELECT attempt, state, run_at > now() AS later FROM queue")
    assert dict(row) == {"attempt": 0, "state": "ready", "later": True}


async def test_completing_in_the_handlers_own_transaction_is_one_commit(
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
    assert (await end_of(connection, task))["result"] == '{"done": true}'
    assert await connection.fetchval("SELECT count(*) FROM effects") == 1
    assert await connection.fetchval("SELECT count(*) FROM runs") == 1


async def test_an_error_inside_the_transaction_undoes_the_completion_too(
    connection: asyncpg.Connection, start_worker: StartWorker
) -> None:
    @handler("writes")
    async def writes(context: Context) -> None:
        async with context.transaction() as transaction:
            await transaction.complete()
            raise ValueError("after all, no")

    await start_worker(writes)
    [task] = await add_tasks(connection, handler="writes", max_attempts=1)
    end = await end_of(connection, task)
    assert end["outcome"] == "failed"
    assert "after all, no" in end["error"]


async def test_a_plain_function_can_use_the_transaction_through_wait(
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
    assert (await end_of(connection, task))["result"] == "7"


async def test_an_overtaken_handler_cannot_write_through_its_transaction(
    connection: asyncpg.Connection, start_worker: StartWorker
) -> None:
    await connection.execute("CREATE TABLE effects (fence bigint)")
    running, overtaken, refused = asyncio.Event(), asyncio.Event(), asyncio.Event()

    @handler("zombie")
    async def zombie(context: Context) -> None:
        running.set()
        await overtaken.wait()
        try:
            async with context.transaction() as transaction:
                await transaction.connection.execute(
                    "INSERT INTO effects VALUES ($1)", context.fence
                )
        except LostClaimError:
            refused.set()
            raise

    await start_worker(zombie, heartbeat_seconds=5, lease_seconds=60)
    [task] = await add_tasks(connection, handler="zombie")
    await running.wait()
    await connection.execute("UPDATE queue SET fence = fence + 1 WHERE task_id = $1", task)
    overtaken.set()
    await asyncio.wait_for(refused.wait(), 10)
    assert await connection.fetchval("SELECT count(*) FROM effects") == 0


async def test_a_worker_claims_ahead_only_what_it_gets_through_in_a_moment(
    connection: asyncpg.Connection, start_worker: StartWorker
) -> None:
    @handler("short")
    async def short(_: Context) -> None:
        await asyncio.sleep(AHEAD_SECONDS / 2)

    await start_worker(short, worker_concurrency=2)
    await add_tasks(connection, 1000, handler="short")
    held = []

    async def some_wait() -> bool:
        held.append(await connection.fetchval("SELECT count(*) FROM queue WHERE state = 'running'"))
        return held[-1] > 2

    await eventually("tasks that are claimed ahead", some_wait)
    for _ in range(20):
        await some_wait()
    assert max(held) < 50, "what the slots need, and what has ended but is not reported yet"
