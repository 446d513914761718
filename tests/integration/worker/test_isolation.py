"""Isolated handlers: their results and errors are those of a run in the worker."""

import importlib
import json
import os
import shutil
import signal
from pathlib import Path

import asyncpg
import pytest

from tests.support.handler_package.sample_handlers import ALL_HANDLERS
from tests.support.worker_runs import StartCommand, StartWorker, add_handler_task, wait_for_end

pytestmark = pytest.mark.asyncio
STEADY = {"lease_seconds": 30, "heartbeat_seconds": 1}
BOTH = pytest.mark.parametrize(
    ("handler", "suffix"), [("process", ""), ("async_process", "_async")]
)


@BOTH
async def test_isolated_handler_runs_in_its_own_process_with_the_same_context(
    connection: asyncpg.Connection, start_worker: StartWorker, handler: str, suffix: str
) -> None:
    worker = await start_worker(*ALL_HANDLERS, **STEADY)
    task = await add_handler_task(
        connection, handler, f"describe{suffix}", text="\N{SNOWMAN}", max_attempts=3
    )
    end = await wait_for_end(connection, task)
    assert end["outcome"] == "completed", end["error"]
    seen = json.loads(end["result"])
    assert seen.pop("pid") != os.getpid()
    assert seen == {
        "task_id": str(task),
        "worker_id": str(worker.instance_id),
        "attempt": 1,
        "max_attempts": 3,
        "fence": 1,
        "queue": "default",
        "payload": {"do": f"describe{suffix}", "text": "\N{SNOWMAN}"},
        "cancelled": False,
        "folder": str(Path.cwd()),
        "is_first_oom_victim": True,
    }


@BOTH
async def test_control_exceptions_have_the_same_meaning_as_in_the_worker(
    connection: asyncpg.Connection, start_worker: StartWorker, handler: str, suffix: str
) -> None:
    await start_worker(*ALL_HANDLERS, **STEADY)
    names = ("snooze", "retry", "cancel", "discard")
    tasks = {
        how: await add_handler_task(connection, handler, f"fail{suffix}", how=how, max_attempts=2)
        for how in names
    }
    ends = {how: await wait_for_end(connection, task) for how, task in tasks.items()}
    assert [(ends[how]["outcome"], ends[how]["attempt"]) for how in names] == [
        ("completed", 1),
        ("completed", 2),
        ("cancelled", 1),
        ("discarded", 1),
    ]
    assert (ends["cancel"]["error"], ends["discard"]["error"]) == ("not wanted", "never")
    assert await connection.fetchval("SELECT reason FROM runs WHERE outcome = 'snoozed'") == "later"


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
        "long": "last",
        "surrogate": "a \\ud800 and a \\0",
        "cancelled": "CancelledError",
    }
    tasks = {
        how: await add_handler_task(connection, handler, f"fail{suffix}", how=how) for how in texts
    }
    for how, text in texts.items():
        end = await wait_for_end(connection, tasks[how])
        assert (end["outcome"], text in end["error"]) == ("failed", True), end["error"]
    if suffix:
        task = await add_handler_task(connection, handler, "fail_in_task", how="exit")
        assert "SystemExit: 3" in (await wait_for_end(connection, task))["error"]


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("set", "not JSON"),
        ("nan", "not JSON: nan"),
        ("huge", "100000002 bytes of JSON; at most 262144 are kept"),
    ],
)
async def test_unserializable_result_fails_the_attempt(
    connection: asyncpg.Connection, start_worker: StartWorker, what: str, message: str
) -> None:
    await start_worker(*ALL_HANDLERS, **STEADY)
    end = await wait_for_end(
        connection, await add_handler_task(connection, "process", "return_value", what=what)
    )
    assert (end["outcome"], message in end["error"]) == ("failed", True), end["error"]


async def test_transaction_is_rejected_with_the_reason(
    connection: asyncpg.Connection, start_worker: StartWorker
) -> None:
    await start_worker(*ALL_HANDLERS, **STEADY)
    end = await wait_for_end(
        connection, await add_handler_task(connection, "process", "open_transaction")
    )
    assert "an isolated handler has no transaction: the connection is the worker's" in end["error"]


async def test_error_of_a_process_that_died_names_the_signal_or_exit_code(
    connection: asyncpg.Connection, start_worker: StartWorker
) -> None:
    await start_worker(*ALL_HANDLERS, **STEADY)
    deaths: list[tuple[dict[str, int], str]] = [
        (
            {"by": signal.SIGKILL},
            "was killed by signal 9 (SIGKILL); perhaps it took more memory than there was",
        ),
        ({"by": signal.SIGSEGV}, "was killed by signal 11 (SIGSEGV)"),
        ({"by": 40}, "was killed by signal 40 (no name)"),
        ({"code": 0}, "exited with code 0 and did not say how the run ended"),
        ({"code": 7}, "exited with code 7 and did not say how the run ended"),
    ]
    tasks = [
        await add_handler_task(connection, "process", "end_process", **how) for how, _ in deaths
    ]
    for task, (_, text) in zip(tasks, deaths, strict=True):
        end = await wait_for_end(connection, task)
        assert (end["outcome"], end["error"]) == ("failed", f"the handler's process {text}")


async def test_isolated_handler_is_found_by_its_entry_point(
    connection: asyncpg.Connection, start_command: StartCommand
) -> None:
    worker = start_command()
    end = await wait_for_end(connection, await add_handler_task(connection, "process", "describe"))
    assert end["outcome"] == "completed", worker.log()
    assert json.loads(end["result"])["pid"] != worker.process.pid


MODULE = """
from task_service.worker import Context, handler

@handler("isolated_handler", isolated=True)
def isolated_handler(context: Context) -> str:
    return __name__
"""


async def test_process_imports_modules_that_the_worker_can_import(
    connection: asyncpg.Connection,
    start_worker: StartWorker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "handler_module.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    await start_worker(importlib.import_module("handler_module").isolated_handler, **STEADY)
    assert (
        await wait_for_end(connection, await add_handler_task(connection, "isolated_handler", ""))
    )["result"] == '"handler_module"'


async def test_error_names_a_missing_module(
    connection: asyncpg.Connection,
    start_worker: StartWorker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "removed_module.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    await start_worker(importlib.import_module("removed_module").isolated_handler, **STEADY)
    (tmp_path / "removed_module.py").unlink()
    shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)
    assert (
        "No module named 'removed_module'"
        in (
            await wait_for_end(
                connection, await add_handler_task(connection, "isolated_handler", "")
            )
        )["error"]
    )
