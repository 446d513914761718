"""Handlers that harm their worker: it goes on, or ends honestly, and the task says what happened."""

import asyncio
import json
import signal
import threading
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from task_service.worker import handler
from task_service.worker.watchdog import EXIT_CODE
from tests.integration.worker.conftest import StartCommand, StartWorker, add, end_of
from tests.support.authors.authors_handlers import EVERY
from tests.support.waiting import eventually
from tests.support.worker_command import WorkerCommand

pytestmark = pytest.mark.asyncio
STEADY = {"lease_seconds": 30, "heartbeat_seconds": 1}
QUICK = {"lease_seconds": 3, "heartbeat_seconds": 0.5}
BOTH = pytest.mark.parametrize(("handler", "suffix"), [("thread", ""), ("coroutine", "_async")])


async def goes_on(connection: asyncpg.Connection) -> None:
    """A plain task completes, and there is one worker, which was never declared dead."""
    task = await add(connection, "coroutine", "nothing")
    assert (await end_of(connection, task))["outcome"] == "completed"
    assert await connection.fetchval("SELECT array_agg(state::text) FROM workers") == ["active"]


async def registered(connection: asyncpg.Connection) -> None:
    """Wait for a worker that is a process."""

    async def active() -> bool:
        return bool(
            await connection.fetchval("SELECT count(*) FROM workers WHERE state = 'active'")
        )

    await eventually("a worker", active, 60)


async def ended(worker: WorkerCommand) -> int:
    return await asyncio.to_thread(worker.wait)


# -- what it raises and returns ---------------------------------------------------------------------------------
@BOTH
async def test_whatever_it_raises_is_what_the_attempt_says(
    connection: asyncpg.Connection, start_worker: StartWorker, handler: str, suffix: str
) -> None:
    await start_worker(*EVERY, **STEADY)
    texts = {
        "exit": "SystemExit: 3",
        "interrupt": "KeyboardInterrupt",
        "base": "BaseException: odd",
    }
    texts |= {
        "unreadable": "UnreadableError",
        "unpicklable": "with a lock",
        "cancelled": "CancelledError",
    }
    texts |= {"surrogate": "a \\ud800 and a \\0"}
    tasks = {how: await add(connection, handler, f"fail{suffix}", how=how) for how in texts}
    for how, text in texts.items():
        end = await end_of(connection, tasks[how])
        assert (end["outcome"], text in end["error"]) == ("failed", True), end["error"]
    await goes_on(connection)


async def test_of_a_long_error_the_end_is_kept(
    connection: asyncpg.Connection, start_worker: StartWorker
) -> None:
    await start_worker(*EVERY, **STEADY)
    error = (await end_of(connection, await add(connection, "thread", "fail", how="long")))["error"]
    assert error.startswith("Traceback")
    assert error.rstrip().endswith("last")
    assert len(error) < 4_100


@pytest.mark.parametrize("how", ["exit", "interrupt"])
async def test_an_exit_in_a_task_that_it_started_does_not_end_the_worker(
    connection: asyncpg.Connection, start_command: StartCommand, how: str
) -> None:
    start_command()
    end = await end_of(connection, await add(connection, "coroutine", "fail_in_task", how=how))
    assert "HandlerExitError: a task of the handler raised" in end["error"]
    await goes_on(connection)


@BOTH
async def test_a_result_that_is_not_json_is_what_the_attempt_says(
    connection: asyncpg.Connection, start_worker: StartWorker, handler: str, suffix: str
) -> None:
    await start_worker(*EVERY, **STEADY)
    not_json = "the handler returned what is not JSON: "
    texts = {
        "set": not_json + "Type is not",
        "nan": not_json + "nan",
        "cycle": not_json + "Recursion limit",
    }
    texts |= {"bytes": not_json + "Type is not", "surrogate": not_json + "str is not valid UTF-8"}
    texts |= dict.fromkeys(("huge", "many"), " bytes of JSON; at most 262144 are kept")
    tasks = {what: await add(connection, handler, f"give{suffix}", what=what) for what in texts}
    for what, text in texts.items():
        end = await end_of(connection, tasks[what])
        assert (end["outcome"], text in end["error"]) == ("failed", True), end["error"]
    await goes_on(connection)


async def test_a_coroutine_function_that_takes_no_context_fails_its_tasks_only(
    connection: asyncpg.Connection, start_worker: StartWorker
) -> None:
    @handler("odd")
    async def odd() -> None:  # type: ignore[misc]
        """Called with a context it raises before it is a coroutine."""

    await start_worker(odd, *EVERY, **STEADY)  # type: ignore[arg-type]
    end = await end_of(connection, await add(connection, "odd", ""))
    assert "takes 0 positional arguments but 1 was given" in end["error"]
    await goes_on(connection)


# -- forks ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("handler", "do", "then"),
    [
        ("thread", "fork", "return"),
        ("coroutine", "fork_async", "return"),
        ("coroutine", "fork_async", "await"),
        ("coroutine", "fork_in_task", "await"),
    ],
)
async def test_a_fork_does_not_go_on_as_a_second_worker(
    connection: asyncpg.Connection, start_command: StartCommand, handler: str, do: str, then: str
) -> None:
    worker = start_command()
    end = await end_of(connection, await add(connection, handler, do, **{"and": then}))
    assert (end["outcome"], end["result"]) == ("completed", "70"), "the exit code of the fork"
    assert worker.log().count("fork_ended") == 1
    assert "stopping" not in worker.log(), (
        "the fork went on in the event loop, and ended as a worker does"
    )
    await goes_on(connection)


async def test_a_fork_may_not_use_the_context(
    connection: asyncpg.Connection, start_command: StartCommand
) -> None:
    start_command()
    end = await end_of(connection, await add(connection, "thread", "use_in_fork"))
    assert (
        "this process is a fork of the worker's, which alone may use the context" in end["result"]
    )


@BOTH
async def test_a_signal_to_a_fork_reaches_the_fork_and_not_the_worker(
    connection: asyncpg.Connection, start_command: StartCommand, handler: str, suffix: str
) -> None:
    worker = start_command()
    end = await end_of(connection, await add(connection, handler, f"terminate_children{suffix}"))
    assert (end["outcome"], end["result"]) == ("completed", f"[{-signal.SIGTERM}, 5]"), end["error"]
    await goes_on(connection)
    assert worker.process.poll() is None


# -- the event loop ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("do", ["block_async", "spin_async", "swallow_async", "block_in_task"])
async def test_a_coroutine_that_blocks_the_event_loop_fails_before_the_lease_is_over(
    connection: asyncpg.Connection, start_command: StartCommand, do: str
) -> None:
    worker = start_command(**QUICK)
    await registered(connection)
    end = await end_of(connection, await add(connection, "coroutine", do))
    assert "BlockedLoopError: it blocked the worker's event loop for" in end["error"], end["error"]
    assert do in end["error"], "the traceback shows where"
    assert worker.log().count("event_loop_blocked") == 1
    await goes_on(connection)


async def test_a_coroutine_that_computes_and_gives_way_is_left_alone(
    connection: asyncpg.Connection, start_command: StartCommand
) -> None:
    worker = start_command(**QUICK)
    await registered(connection)
    end = await end_of(connection, await add(connection, "coroutine", "give_way_async", seconds=4))
    assert end["outcome"] == "completed", end["error"]
    assert "event_loop_blocked" not in worker.log()


async def test_a_worker_whose_event_loop_is_lost_ends(
    connection: asyncpg.Connection, start_command: StartCommand
) -> None:
    worker = start_command(**QUICK)
    await add(connection, "coroutine", "deadlock_async")
    assert await ended(worker) == 70
    assert "event_loop_lost" in worker.log()
    assert "in deadlock_async" in worker.log(), "the stack says where"


async def test_a_worker_that_was_stopped_is_not_taken_for_one_that_is_blocked(
    connection: asyncpg.Connection, start_command: StartCommand, tmp_path: Path
) -> None:
    """It is stopped in the middle of a coroutine's step, for almost a lease."""
    worker = start_command(lease_seconds=4.5, heartbeat_seconds=0.5)
    await registered(connection)
    task = await add(
        connection, "coroutine", "compute_async", go=str(tmp_path / "go"), max_attempts=5
    )

    async def computes() -> bool:
        return "computing" in worker.log()

    await eventually("the computation", computes)
    worker.process.send_signal(signal.SIGSTOP)
    await connection.execute("SELECT pg_sleep(4)")
    (tmp_path / "go").touch()
    worker.process.send_signal(signal.SIGCONT)
    assert (await end_of(connection, task))["outcome"] == "completed"
    assert await connection.fetchval("SELECT count(*) FROM runs WHERE outcome = 'failed'") == 0
    assert worker.process.poll() is None


# -- what the process has one of --------------------------------------------------------------------------------
@pytest.mark.parametrize("how", ["ignore", "default", "own", "loop", "removed", "wakeup"])
async def test_sigterm_drains_the_worker_whatever_a_coroutine_made_of_it(
    connection: asyncpg.Connection, start_command: StartCommand, how: str
) -> None:
    worker = start_command()
    assert (await end_of(connection, await add(connection, "coroutine", "take_signals", how=how)))[
        "outcome"
    ] == "completed"
    worker.terminate()
    assert await ended(worker) == 0, worker.log()
    assert "worker_left" in worker.log()


@pytest.mark.parametrize(
    ("handler", "do"), [("thread", "leak_threads"), ("coroutine", "hand_to_thread")]
)
async def test_threads_that_were_left_do_not_keep_the_worker_from_ending(
    connection: asyncpg.Connection, start_command: StartCommand, handler: str, do: str
) -> None:
    worker = start_command(shutdown_seconds=1)
    task = await add(connection, handler, do, timeout_seconds=1)
    await end_of(connection, task)
    await goes_on(connection)
    worker.terminate()
    assert await ended(worker) == 0
    assert "threads_left_behind" in worker.log()


async def test_a_thread_that_the_system_does_not_give_is_no_failure_of_the_task(
    connection: asyncpg.Connection, start_worker: StartWorker
) -> None:
    await start_worker(*EVERY, **STEADY)
    before = threading.stack_size(1 << 47)  # more than there are addresses
    try:
        task = await add(connection, "thread", "look")

        async def given_back() -> Any:
            return await connection.fetchrow(
                "SELECT outcome, reason FROM runs WHERE task_id = $1", task
            )

        assert dict(await eventually("the release", given_back)) == {
            "outcome": "released",
            "reason": "outage",
        }
    finally:
        threading.stack_size(before)
    await goes_on(connection)


async def test_the_folder_and_the_umask_that_a_thread_leaves_harm_nobody_else(
    connection: asyncpg.Connection, start_command: StartCommand, tmp_path: Path
) -> None:
    start_command()
    end = await end_of(
        connection, await add(connection, "thread", "move", folder=str(tmp_path / "gone"))
    )
    assert end["outcome"] == "completed", end["error"]
    for do in ("process", "async_process"):
        end = await end_of(
            connection, await add(connection, do, f"look{'_async' if 'async' in do else ''}")
        )
        assert end["outcome"] == "completed", end["error"]
        assert json.loads(end["result"])["folder"] == str(tmp_path / "worker-0")
    await goes_on(connection)


async def test_a_flood_of_log_lines_does_not_stop_the_worker(
    connection: asyncpg.Connection, start_command: StartCommand
) -> None:
    start_command(**QUICK)
    tasks = [await add(connection, "thread", "log_much") for _ in range(3)]
    await goes_on(connection)
    for task in tasks:
        assert (await end_of(connection, task))["outcome"] == "completed"
    await goes_on(connection)


async def test_who_closes_the_workers_connections_harms_that_worker_only(
    connection: asyncpg.Connection, start_command: StartCommand
) -> None:
    """A number that was closed is given out again, so that the worker may close what is another's: it may be lost."""
    start_command(**QUICK)
    task = await add(connection, "thread", "close_sockets")
    await registered(connection)
    start_command(**QUICK)
    assert (await end_of(connection, task, 60))["outcome"] == "completed"
    task = await add(connection, "coroutine", "nothing")
    assert (await end_of(connection, task, 60))["outcome"] == "completed"


async def test_a_worker_that_is_alive_and_cannot_report_ends_and_another_one_has_its_tasks(
    connection: asyncpg.Connection, start_command: StartCommand
) -> None:
    worker = start_command(**QUICK)
    task = await add(connection, "coroutine", "cut_reports_off_async")
    assert await ended(worker) == EXIT_CODE
    assert "results_do_not_arrive" in worker.log()
    start_command(**QUICK)
    assert (await end_of(connection, task))["outcome"] == "completed"


async def test_who_closes_everything_ends_the_worker(
    connection: asyncpg.Connection, start_command: StartCommand
) -> None:
    worker = start_command(**QUICK)
    await add(connection, "thread", "close_everything")
    assert await ended(worker) != 0
