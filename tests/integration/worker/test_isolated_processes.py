"""Processes of isolated handlers: time limits, cancellation, memory, output and cleanup."""

import asyncio
import contextlib
import ctypes
import json
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from task_service.queue import entries
from tests.support.handler_package.sample_handlers import ALL_HANDLERS
from tests.support.processes import (
    has_children_in,
    members_of_group,
    wait_for_pids,
    wait_for_text,
    wait_until_gone,
)
from tests.support.waiting import eventually
from tests.support.worker_runs import StartCommand, StartWorker, add_handler_task, wait_for_end

pytestmark = pytest.mark.asyncio
PR_SET_CHILD_SUBREAPER = 36
STEADY = {"lease_seconds": 30, "heartbeat_seconds": 1}
BOTH = pytest.mark.parametrize(
    ("handler", "suffix"), [("process", ""), ("async_process", "_async")]
)


async def test_process_and_its_children_are_killed_at_the_time_limit(
    connection: asyncpg.Connection,
    start_worker: StartWorker,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    worker = await start_worker(*ALL_HANDLERS, **STEADY)
    task = await add_handler_task(
        connection,
        "process",
        "start_child_and_block",
        file=str(tmp_path / "pids"),
        timeout_seconds=3,
    )
    leader, child = await wait_for_pids(tmp_path / "pids")
    [guard] = set(members_of_group(leader)) - {leader, child}
    os.kill(guard, signal.SIGKILL)
    end = await wait_for_end(connection, task)
    assert (end["outcome"], end["error"][:20]) == ("timed_out", "ran out of time afte")
    assert members_of_group(leader) == []
    await asyncio.wait_for(worker.runner.until_idle(), 10)
    assert "handler_ignores_interruption" not in capsys.readouterr().out


@BOTH
async def test_cancelled_handler_can_clean_up(
    connection: asyncpg.Connection,
    start_worker: StartWorker,
    tmp_path: Path,
    handler: str,
    suffix: str,
) -> None:
    await start_worker(*ALL_HANDLERS, **STEADY)
    file = tmp_path / "file"
    task = await add_handler_task(
        connection, handler, f"wait_for_cancellation{suffix}", file=str(file)
    )
    assert await wait_for_text(file) == "runs"
    assert await entries.request_cancel(connection, task)
    outcome = (await wait_for_end(connection, task))["outcome"]
    assert file.read_text() == "cancelled True"
    assert outcome == ("cancelled" if suffix else "completed"), (
        "a value that is returned in time is the result"
    )


async def test_handler_that_ignores_cancellation_is_killed(
    connection: asyncpg.Connection, start_worker: StartWorker, tmp_path: Path
) -> None:
    worker = await start_worker(*ALL_HANDLERS, **STEADY)
    task = await add_handler_task(
        connection, "process", "start_child_and_block", file=str(tmp_path / "pids")
    )
    numbers = await wait_for_pids(tmp_path / "pids")
    assert await entries.request_cancel(connection, task)
    assert (await wait_for_end(connection, task))["outcome"] == "cancelled"
    await wait_until_gone(numbers)
    await asyncio.wait_for(worker.runner.until_idle(), 10)


async def test_slot_is_free_only_after_the_process_has_ended(
    connection: asyncpg.Connection, start_worker: StartWorker, tmp_path: Path
) -> None:
    """A leftover thread keeps the process alive, so it is killed before the next run starts."""
    await start_worker(*ALL_HANDLERS, worker_concurrency=1, **STEADY)
    file = str(tmp_path / "file")
    first = await add_handler_task(connection, "process", "leave_thread_running", file=file)
    second = await add_handler_task(connection, "process", "is_process_alive", file=file)
    assert (await wait_for_end(connection, first))["outcome"] == "completed"
    assert (await wait_for_end(connection, second))["result"] == "false"


@BOTH
async def test_time_limit_can_be_extended(
    connection: asyncpg.Connection, start_worker: StartWorker, handler: str, suffix: str
) -> None:
    await start_worker(*ALL_HANDLERS, **STEADY)
    task = await add_handler_task(
        connection, handler, f"extend{suffix}", seconds=60, then=3, timeout_seconds=3
    )
    assert (await wait_for_end(connection, task))["result"] == '"in time"'
    task = await add_handler_task(connection, handler, f"extend{suffix}", seconds="soon", then=0)
    assert "the time limit was not moved" in (await wait_for_end(connection, task))["error"]


async def test_process_without_its_claim_is_killed_and_nothing_is_reported(
    connection: asyncpg.Connection, start_worker: StartWorker, tmp_path: Path
) -> None:
    worker = await start_worker(*ALL_HANDLERS, shutdown_seconds=1, **STEADY)
    task = await add_handler_task(
        connection, "process", "start_child_and_block", file=str(tmp_path / "pids"), max_attempts=2
    )
    numbers = await wait_for_pids(tmp_path / "pids")
    (tmp_path / "pids").unlink()
    worker.membership._lose()
    await wait_until_gone(numbers)
    worker.membership.wake.set()
    next_pids = await wait_for_pids(tmp_path / "pids")
    runs = await connection.fetch("SELECT outcome, reason FROM runs WHERE task_id = $1", task)
    assert [tuple(run) for run in runs] == [("lost", "outage")]
    await worker.stop()
    await wait_until_gone(next_pids)


async def test_extension_without_the_claim_kills_the_process(
    connection: asyncpg.Connection, start_worker: StartWorker, tmp_path: Path
) -> None:
    worker = await start_worker(*ALL_HANDLERS, **STEADY)
    task = await add_handler_task(
        connection,
        "process",
        "extend_and_continue",
        file=str(tmp_path / "file"),
        go=str(tmp_path / "go"),
    )
    leader = int(await wait_for_text(tmp_path / "file"))
    await connection.execute("UPDATE queue SET fence = fence + 1 WHERE task_id = $1", task)
    (tmp_path / "go").touch()
    await wait_until_gone([leader])
    await asyncio.wait_for(worker.runner.until_idle(), 10)
    assert await connection.fetchval("SELECT count(*) FROM runs") == 0


async def test_stopping_worker_kills_the_process_and_releases_without_counting(
    connection: asyncpg.Connection, start_worker: StartWorker, tmp_path: Path
) -> None:
    worker = await start_worker(*ALL_HANDLERS, shutdown_seconds=1, **STEADY)
    await add_handler_task(
        connection, "process", "start_child_and_block", file=str(tmp_path / "pids")
    )
    leader, _ = await wait_for_pids(tmp_path / "pids")
    await worker.stop()
    assert members_of_group(leader) == []
    [run] = await connection.fetch("SELECT outcome, reason FROM runs")
    assert tuple(run) == ("released", "shutdown")
    assert await connection.fetchval("SELECT attempt FROM queue") == 0


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGSTOP])
async def test_process_ends_when_its_worker_dies_or_is_stopped_for_a_lease(
    connection: asyncpg.Connection,
    start_command: StartCommand,
    tmp_path: Path,
    signal_number: signal.Signals,
) -> None:
    worker = start_command(lease_seconds=6, heartbeat_seconds=1)
    await add_handler_task(
        connection, "process", "start_child_and_block", file=str(tmp_path / "pids")
    )
    leader, _ = await wait_for_pids(tmp_path / "pids")
    worker.process.send_signal(signal_number)
    await wait_until_gone(members_of_group(leader))


async def test_process_cannot_exceed_its_memory_limit(
    connection: asyncpg.Connection, start_worker: StartWorker
) -> None:
    await start_worker(*ALL_HANDLERS, **STEADY)
    allocated = await add_handler_task(connection, "small_process", "allocate_memory")
    failed = await add_handler_task(connection, "small_process", "allocate_memory", then="raise")
    end = await wait_for_end(connection, allocated)
    assert 100 < int(end["result"]) < 315, "megabytes of 300 MiB"
    end = await wait_for_end(connection, failed)
    assert (end["outcome"], end["error"].rstrip()[-11:]) == ("failed", "MemoryError")


async def test_printed_output_is_logged_with_a_limit(
    connection: asyncpg.Connection, start_command: StartCommand
) -> None:
    worker = start_command(log_format="json")
    task = await add_handler_task(connection, "process", "print_many_lines", lines=300_000)
    assert (await wait_for_end(connection, task))["result"] == '"printed"'
    task = await add_handler_task(connection, "process", "print_many_lines", lines=3)
    assert (await wait_for_end(connection, task))["result"] == '"printed"'

    async def is_complete() -> bool:
        return "yyyyy" in worker.log()

    await eventually("the last line", is_complete)
    lines = [json.loads(line) for line in worker.log().splitlines()]
    output = [line for line in lines if line["event"] == "handler_output"]
    assert [line["event"] for line in lines if line["event"].endswith("_cut")] == [
        "handler_output_cut"
    ]
    assert [line["line"] for line in output[:2]] == ["line 0", "line 1"]
    assert {line["handler"] for line in output} == {"process"}
    assert len([line for line in output if line["task_id"] != str(task)]) == 1000
    assert max(len(line["line"]) for line in output) == 2000


async def test_result_of_a_fork_is_ignored(
    connection: asyncpg.Connection, start_worker: StartWorker
) -> None:
    await start_worker(*ALL_HANDLERS, **STEADY)
    for handler, do in (("process", "fork"), ("async_process", "fork_async")):
        task = await add_handler_task(connection, handler, do, **{"and": "await"})
        assert (await wait_for_end(connection, task))["result"] == "70", "the exit code of the fork"


async def test_handler_sees_only_its_own_children(
    connection: asyncpg.Connection, start_worker: StartWorker
) -> None:
    await start_worker(*ALL_HANDLERS, **STEADY)
    task = await add_handler_task(connection, "process", "wait_for_children")
    assert (await wait_for_end(connection, task))["result"] == "[2, 2, 2]"


async def test_no_descriptor_or_thread_of_a_run_is_left(
    connection: asyncpg.Connection, start_worker: StartWorker, tmp_path: Path
) -> None:
    """Neither pipes nor threads remain, even after runs that leave a daemon."""

    def list_resources() -> list[str]:
        """Return the pipes and threads of runs; the number of connections varies."""
        pipes = []
        for descriptor in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(OSError):
                pipes += [name] if (name := str(descriptor.readlink())).startswith("pipe:") else []
        return sorted(
            {*pipes, *(t.name for t in threading.enumerate() if t.name.startswith("handler "))}
        )

    worker = await start_worker(*ALL_HANDLERS, **STEADY)
    await wait_for_end(connection, await add_handler_task(connection, "process", "describe"))
    await asyncio.wait_for(worker.runner.until_idle(), 10)
    before = list_resources()
    tasks = [
        await add_handler_task(
            connection, "process", "leave_daemon", file=str(tmp_path / f"daemon-{n}")
        )
        for n in range(5)
    ]
    for task in tasks:
        assert (await wait_for_end(connection, task))["outcome"] == "completed"
    daemons = [int(await wait_for_text(tmp_path / f"daemon-{n}")) for n in range(5)]

    async def as_before() -> bool:
        return list_resources() == before

    try:
        await eventually("no leftover pipe or thread", as_before)
    finally:
        for number in daemons:
            os.kill(number, signal.SIGKILL)


@pytest.fixture
def subreaper() -> Iterator[None]:
    """Adopt orphaned processes, as process 1 of a container does."""
    library = ctypes.CDLL(None, use_errno=True)
    assert library.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    yield
    library.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


async def test_no_zombie_is_left_for_process_1_of_a_container(
    connection: asyncpg.Connection, start_worker: StartWorker, tmp_path: Path, subreaper: None
) -> None:
    worker = await start_worker(*ALL_HANDLERS, **STEADY)
    task = await add_handler_task(
        connection,
        "process",
        "start_child_and_block",
        file=str(tmp_path / "pids"),
        timeout_seconds=2,
    )
    leader, _ = await wait_for_pids(tmp_path / "pids")
    assert (await wait_for_end(connection, task))["outcome"] == "timed_out"
    await asyncio.wait_for(worker.runner.until_idle(), 10)
    assert not has_children_in(leader)
