"""Handlers that misbehave: the worker continues or ends cleanly, and the task has the error."""

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
from tests.support.handler_package.sample_handlers import ALL_HANDLERS
from tests.support.waiting import eventually
from tests.support.worker_command import WorkerCommand
from tests.support.worker_runs import StartCommand, StartWorker, add_handler_task, wait_for_end

pytestmark = pytest.mark.asyncio
STEADY = {"lease_seconds": 30, "heartbeat_seconds": 1}
QUICK = {"lease_seconds": 3, "heartbeat_seconds": 0.5}
BOTH = pytest.mark.parametrize(("handler", "suffix"), [("thread", ""), ("coroutine", "_async")])


async def check_worker_is_healthy(connection: asyncpg.Connection) -> None:
    """Check that a task completes and that the only worker was never declared dead."""
    task = await add_handler_task(connection, "coroutine", "do_nothing")
    assert (await wait_for_end(connection, task))["outcome"] == "completed"
    assert await connection.fetchval("SELECT array_agg(state::text) FROM workers") == ["active"]


async def wait_for_worker(connection: asyncpg.Connection) -> None:
    """Wait until a worker process is registered."""

    async def active() -> bool:
        return bool(
            await connection.fetchval("SELECT count(*) FROM workers WHERE state = 'active'")
        )

    await eventually("a worker", active, 60)


async def wait_for_exit(worker: WorkerCommand) -> int:
    return await asyncio.to_thread(worker.wait)


# -- exceptions and results --
@BOTH
async def test_every_raised_exception_is_the_error_of_the_attempt(
    connection: asyncpg.Connection, start_worker: StartWorker, handler: str, suffix: str
) -> None:
    await start_worker(*ALL_HANDLERS, **STEADY)
    texts = {
        "exit": "SystemExit: 3",
        "interrupt": "KeyboardInterrupt",
        "base": "BaseException: odd",
        "unreadable": "UnreadableError",
        "unpicklable": "with a lock",
        "cancelled": "CancelledError",
        "surrogate": "a \\ud800 and a \\0",
    }
    tasks = {
        how: await add_handler_task(connection, handler, f"fail{suffix}", how=how) for how in texts
    }
    for how, text in texts.items():
        end = await wait_for_end(connection, tasks[how])
        assert (end["outcome"], text in end["error"]) == ("failed", True), end["error"]
    await check_worker_is_healthy(connection)


async def test_long_error_keeps_its_end(
    connection: asyncpg.Connection, start_worker: StartWorker
) -> None:
    await start_worker(*ALL_HANDLERS, **STEADY)
    error = (
        await wait_for_end(
            connection, await add_handler_task(connection, "thread", "fail", how="long")
        )
    )["error"]
    assert error.startswith("Traceback")
    assert error.rstrip().endswith("last")
    assert len(error) < 4_100


@pytest.mark.parametrize("how", ["exit", "interrupt"])
async def test_system_exit_in_a_started_task_does_not_end_the_worker(
    connection: asyncpg.Connection, start_command: StartCommand, how: str
) -> None:
    start_command()
    end = await wait_for_end(
        connection, await add_handler_task(connection, "coroutine", "fail_in_task", how=how)
    )
    assert "HandlerExitError: a task of the handler raised" in end["error"]
    await check_worker_is_healthy(connection)


@BOTH
async def test_result_that_is_not_json_fails_the_attempt_with_the_reason(
    connection: asyncpg.Connection, start_worker: StartWorker, handler: str, suffix: str
) -> None:
    await start_worker(*ALL_HANDLERS, **STEADY)
    not_json = "the handler returned what is not JSON: "
    texts = {
        "set": not_json + "Type is not",
        "nan": not_json + "nan",
        "cycle": not_json + "Recursion limit",
    }
    texts |= {"bytes": not_json + "Type is not", "surrogate": not_json + "str is not valid UTF-8"}
    texts |= dict.fromkeys(("huge", "many"), " bytes of JSON; at most 262144 are kept")
    tasks = {
        what: await add_handler_task(connection, handler, f"return_value{suffix}", what=what)
        for what in texts
    }
    for what, text in texts.items():
        end = await wait_for_end(connection, tasks[what])
        assert (end["outcome"], text in end["error"]) == ("failed", True), end["error"]
    await check_worker_is_healthy(connection)


async def test_handler_without_a_context_parameter_fails_only_its_own_tasks(
    connection: asyncpg.Connection, start_worker: StartWorker
) -> None:
    @handler("odd")  # type: ignore[arg-type]
    async def odd() -> None:
        """Raise TypeError when called with a context, before there is a coroutine."""

    await start_worker(odd, *ALL_HANDLERS, **STEADY)
    end = await wait_for_end(connection, await add_handler_task(connection, "odd", ""))
    assert "takes 0 positional arguments but 1 was given" in end["error"]
    await check_worker_is_healthy(connection)


# -- forks --
@pytest.mark.parametrize(
    ("handler", "do", "then"),
    [
        ("thread", "fork", "return"),
        ("coroutine", "fork_async", "return"),
        ("coroutine", "fork_async", "await"),
        ("coroutine", "fork_in_task", "await"),
    ],
)
async def test_fork_does_not_continue_as_a_second_worker(
    connection: asyncpg.Connection, start_command: StartCommand, handler: str, do: str, then: str
) -> None:
    worker = start_command()
    end = await wait_for_end(
        connection, await add_handler_task(connection, handler, do, **{"and": then})
    )
    assert (end["outcome"], end["result"]) == ("completed", "70"), "the exit code of the fork"
    assert worker.log().count("fork_ended") == 1
    assert "stopping" not in worker.log(), (
        "the fork continued in the event loop and ended like a worker"
    )
    await check_worker_is_healthy(connection)


async def test_fork_cannot_use_the_context(
    connection: asyncpg.Connection, start_command: StartCommand
) -> None:
    start_command()
    end = await wait_for_end(
        connection, await add_handler_task(connection, "thread", "use_context_in_fork")
    )
    assert (
        "this process is a fork of the worker's, which alone may use the context" in end["result"]
    )


@BOTH
async def test_signal_to_a_fork_does_not_reach_the_worker(
    connection: asyncpg.Connection, start_command: StartCommand, handler: str, suffix: str
) -> None:
    worker = start_command()
    end = await wait_for_end(
        connection, await add_handler_task(connection, handler, f"terminate_children{suffix}")
    )
    assert (end["outcome"], end["result"]) == ("completed", f"[{-signal.SIGTERM}, 5]"), end["error"]
    await check_worker_is_healthy(connection)
    assert worker.process.poll() is None


# -- the event loop --
@pytest.mark.parametrize(
    "do", ["block_async", "spin_async", "swallow_exceptions_async", "block_in_task"]
)
async def test_coroutine_that_blocks_the_event_loop_fails_before_the_lease_expires(
    connection: asyncpg.Connection, start_command: StartCommand, do: str
) -> None:
    worker = start_command(**QUICK)
    await wait_for_worker(connection)
    end = await wait_for_end(connection, await add_handler_task(connection, "coroutine", do))
    assert "BlockedLoopError: it blocked the worker's event loop for" in end["error"], end["error"]
    assert do in end["error"], "the traceback names the function"
    assert worker.log().count("event_loop_blocked") == 1
    await check_worker_is_healthy(connection)


async def test_coroutine_that_yields_between_computations_is_not_interrupted(
    connection: asyncpg.Connection, start_command: StartCommand
) -> None:
    worker = start_command(**QUICK)
    await wait_for_worker(connection)
    end = await wait_for_end(
        connection,
        await add_handler_task(connection, "coroutine", "yield_sometimes_async", seconds=4),
    )
    assert end["outcome"] == "completed", end["error"]
    assert "event_loop_blocked" not in worker.log()


async def test_worker_with_a_deadlocked_event_loop_ends(
    connection: asyncpg.Connection, start_command: StartCommand
) -> None:
    worker = start_command(**QUICK)
    await add_handler_task(connection, "coroutine", "deadlock_async")
    assert await wait_for_exit(worker) == 70
    assert "event_loop_lost" in worker.log()
    assert "in deadlock_async" in worker.log(), "the stack names the function"


async def test_stopped_worker_is_not_treated_as_blocked(
    connection: asyncpg.Connection, start_command: StartCommand, tmp_path: Path
) -> None:
    """Stop the worker during a step of a coroutine, for almost a lease."""
    worker = start_command(lease_seconds=4.5, heartbeat_seconds=0.5)
    await wait_for_worker(connection)
    task = await add_handler_task(
        connection, "coroutine", "compute_async", go=str(tmp_path / "go"), max_attempts=5
    )

    async def is_computing() -> bool:
        return "computing" in worker.log()

    await eventually("the computation", is_computing)
    worker.process.send_signal(signal.SIGSTOP)
    await connection.execute("SELECT pg_sleep(4)")
    (tmp_path / "go").touch()
    worker.process.send_signal(signal.SIGCONT)
    assert (await wait_for_end(connection, task))["outcome"] == "completed"
    assert await connection.fetchval("SELECT count(*) FROM runs WHERE outcome = 'failed'") == 0
    assert worker.process.poll() is None


# -- state that the whole process shares --
@pytest.mark.parametrize("how", ["ignore", "default", "own", "loop", "removed", "wakeup"])
async def test_sigterm_drains_the_worker_after_a_handler_changed_signal_handling(
    connection: asyncpg.Connection, start_command: StartCommand, how: str
) -> None:
    worker = start_command()
    assert (
        await wait_for_end(
            connection,
            await add_handler_task(connection, "coroutine", "replace_sigterm_handling", how=how),
        )
    )["outcome"] == "completed"
    worker.terminate()
    assert await wait_for_exit(worker) == 0, worker.log()
    assert "worker_left" in worker.log()


@pytest.mark.parametrize(
    ("handler", "do"), [("thread", "leak_threads"), ("coroutine", "block_in_executor")]
)
async def test_leftover_threads_do_not_prevent_the_worker_from_ending(
    connection: asyncpg.Connection, start_command: StartCommand, handler: str, do: str
) -> None:
    worker = start_command(shutdown_seconds=1)
    task = await add_handler_task(connection, handler, do, timeout_seconds=1)
    await wait_for_end(connection, task)
    await check_worker_is_healthy(connection)
    worker.terminate()
    assert await wait_for_exit(worker) == 0
    assert "threads_left_behind" in worker.log()


async def test_failure_to_start_a_thread_releases_the_task(
    connection: asyncpg.Connection, start_worker: StartWorker
) -> None:
    await start_worker(*ALL_HANDLERS, **STEADY)
    before = threading.stack_size(1 << 47)  # larger than the address space
    try:
        task = await add_handler_task(connection, "thread", "describe")

        async def released() -> Any:
            return await connection.fetchrow(
                "SELECT outcome, reason FROM runs WHERE task_id = $1", task
            )

        assert dict(await eventually("the release", released)) == {
            "outcome": "released",
            "reason": "outage",
        }
    finally:
        threading.stack_size(before)
    await check_worker_is_healthy(connection)


async def test_changed_working_folder_and_umask_do_not_affect_other_handlers(
    connection: asyncpg.Connection, start_command: StartCommand, tmp_path: Path
) -> None:
    start_command()
    end = await wait_for_end(
        connection,
        await add_handler_task(
            connection, "thread", "change_process_state", folder=str(tmp_path / "removed")
        ),
    )
    assert end["outcome"] == "completed", end["error"]
    for do in ("process", "async_process"):
        end = await wait_for_end(
            connection,
            await add_handler_task(connection, do, f"describe{'_async' if 'async' in do else ''}"),
        )
        assert end["outcome"] == "completed", end["error"]
        assert json.loads(end["result"])["folder"] == str(tmp_path / "worker-0")
    await check_worker_is_healthy(connection)


async def test_many_log_lines_do_not_stop_the_worker(
    connection: asyncpg.Connection, start_command: StartCommand
) -> None:
    start_command(**QUICK)
    tasks = [await add_handler_task(connection, "thread", "log_many_lines") for _ in range(3)]
    await check_worker_is_healthy(connection)
    for task in tasks:
        assert (await wait_for_end(connection, task))["outcome"] == "completed"
    await check_worker_is_healthy(connection)


async def test_handler_that_closes_the_connections_affects_only_its_worker(
    connection: asyncpg.Connection, start_command: StartCommand
) -> None:
    """Descriptor numbers are reused, so the worker may close other descriptors and be lost."""
    start_command(**QUICK)
    task = await add_handler_task(connection, "thread", "close_sockets")
    await wait_for_worker(connection)
    start_command(**QUICK)
    assert (await wait_for_end(connection, task, 60))["outcome"] == "completed"
    task = await add_handler_task(connection, "coroutine", "do_nothing")
    assert (await wait_for_end(connection, task, 60))["outcome"] == "completed"


async def test_worker_that_cannot_report_ends_and_another_one_runs_its_tasks(
    connection: asyncpg.Connection, start_command: StartCommand
) -> None:
    worker = start_command(**QUICK)
    task = await add_handler_task(connection, "coroutine", "break_report_connection_async")
    assert await wait_for_exit(worker) == EXIT_CODE
    assert "results_do_not_arrive" in worker.log()
    start_command(**QUICK)
    assert (await wait_for_end(connection, task))["outcome"] == "completed"


async def test_handler_that_closes_all_descriptors_ends_the_worker(
    connection: asyncpg.Connection, start_command: StartCommand
) -> None:
    worker = start_command(**QUICK)
    await add_handler_task(connection, "thread", "close_all_descriptors")
    assert await wait_for_exit(worker) != 0
