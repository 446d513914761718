"""Isolated handlers: a process of their own, which is killed when its time is up and harms nobody else."""

import asyncio
import contextlib
import ctypes
import importlib
import json
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from task_service.queue import entries
from tests.integration.worker.conftest import StartCommand, StartWorker, add, end_of
from tests.support.authors.authors_handlers import EVERY
from tests.support.waiting import eventually

pytestmark = pytest.mark.asyncio
PR_SET_CHILD_SUBREAPER = 36
STEADY = {"lease_seconds": 30, "heartbeat_seconds": 1}
BOTH = pytest.mark.parametrize(
    ("handler", "suffix"), [("process", ""), ("async_process", "_async")]
)


async def text_of(file: Path) -> str:
    """What a handler writes into this file, once it has."""

    async def content() -> str:
        return _content(file)

    return await eventually(f"{file.name} is written", content, 30)


def _content(file: Path) -> str:
    return file.read_text() if file.exists() else ""


async def all_gone(numbers: list[int]) -> None:
    """Wait until none of these processes runs any more; a zombie does not."""

    async def gone() -> bool:
        return not any(runs(number) for number in numbers)

    await eventually(f"the end of {numbers}", gone)


def runs(number: int) -> bool:
    """Whether there is such a process, and it is more than a zombie."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def has_children_in(group: int) -> bool:
    """Whether this process has children in that group, zombies or not."""
    try:
        os.waitpid(-group, os.WNOHANG)
    except ChildProcessError:
        return False
    return True


def group_of(leader: int) -> list[int]:
    """All living processes of this process group."""
    found = [int(folder.name) for folder in Path("/proc").iterdir() if folder.name.isdigit()]
    return [number for number in found if runs(number) and _group(number) == leader]


def _group(number: int) -> int | None:
    try:
        return os.getpgid(number)
    except ProcessLookupError:
        return None


@BOTH
async def test_it_runs_in_a_process_of_its_own_and_knows_what_its_context_says(
    connection: asyncpg.Connection, start_worker: StartWorker, handler: str, suffix: str
) -> None:
    worker = await start_worker(*EVERY, **STEADY)
    task = await add(connection, handler, f"look{suffix}", text="\N{SNOWMAN}", max_attempts=3)
    end = await end_of(connection, task)
    assert end["outcome"] == "completed", end["error"]
    seen = json.loads(end["result"])
    assert seen.pop("pid") != os.getpid()
    assert seen == {
        "task_id": str(task), "worker_id": str(worker.instance_id), "attempt": 1, "max_attempts": 3, "fence": 1,
        "queue": "default", "payload": {"do": f"look{suffix}", "text": "\N{SNOWMAN}"}, "cancelled": False,
        "folder": str(Path.cwd()), "first_to_go": True,
    }  # fmt: skip


@BOTH
async def test_the_words_for_an_end_mean_the_same_as_in_the_worker(
    connection: asyncpg.Connection, start_worker: StartWorker, handler: str, suffix: str
) -> None:
    await start_worker(*EVERY, **STEADY)
    words = ("snooze", "retry", "cancel", "discard")
    tasks = {
        how: await add(connection, handler, f"fail{suffix}", how=how, max_attempts=2)
        for how in words
    }
    ends = {how: await end_of(connection, task) for how, task in tasks.items()}
    assert [(ends[how]["outcome"], ends[how]["attempt"]) for how in words] == [
        ("completed", 1), ("completed", 2), ("cancelled", 1), ("discarded", 1),
    ]  # fmt: skip
    assert (ends["cancel"]["error"], ends["discard"]["error"]) == ("not wanted", "never")
    assert await connection.fetchval("SELECT reason FROM runs WHERE outcome = 'snoozed'") == "later"


@BOTH
async def test_whatever_it_raises_is_what_the_attempt_says(
    connection: asyncpg.Connection, start_worker: StartWorker, handler: str, suffix: str
) -> None:
    await start_worker(*EVERY, **STEADY)
    texts = {
        "exit": "SystemExit: 3", "interrupt": "KeyboardInterrupt", "base": "BaseException: odd",
        "unreadable": "UnreadableError", "unpicklable": "with a lock", "long": "last",
        "surrogate": "a \\ud800 and a \\0", "cancelled": "CancelledError",
    }  # fmt: skip
    tasks = {how: await add(connection, handler, f"fail{suffix}", how=how) for how in texts}
    for how, text in texts.items():
        end = await end_of(connection, tasks[how])
        assert (end["outcome"], text in end["error"]) == ("failed", True), end["error"]
    if suffix:
        task = await add(connection, handler, "fail_in_task", how="exit")
        assert "SystemExit: 3" in (await end_of(connection, task))["error"]


@pytest.mark.parametrize(
    ("what", "why"),
    [
        ("set", "not JSON"),
        ("nan", "not JSON: nan"),
        ("huge", "100000002 bytes of JSON; at most 262144 are kept"),
    ],
)
async def test_a_result_that_cannot_be_kept_fails_the_attempt(
    connection: asyncpg.Connection, start_worker: StartWorker, what: str, why: str
) -> None:
    await start_worker(*EVERY, **STEADY)
    end = await end_of(connection, await add(connection, "process", "give", what=what))
    assert (end["outcome"], why in end["error"]) == ("failed", True), end["error"]


async def test_a_transaction_is_refused_with_the_reason(
    connection: asyncpg.Connection, start_worker: StartWorker
) -> None:
    await start_worker(*EVERY, **STEADY)
    end = await end_of(connection, await add(connection, "process", "transact"))
    assert "an isolated handler has no transaction: the connection is the worker's" in end["error"]


async def test_a_process_that_dies_is_a_failure_that_says_how(
    connection: asyncpg.Connection, start_worker: StartWorker
) -> None:
    await start_worker(*EVERY, **STEADY)
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
    tasks = [await add(connection, "process", "die", **how) for how, _ in deaths]
    for task, (_, text) in zip(tasks, deaths, strict=True):
        end = await end_of(connection, task)
        assert (end["outcome"], end["error"]) == ("failed", f"the handler's process {text}")


async def test_at_its_time_limit_it_is_killed_at_once_with_all_that_it_started(
    connection: asyncpg.Connection,
    start_worker: StartWorker,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    worker = await start_worker(*EVERY, **STEADY)
    task = await add(
        connection, "process", "raise_family", file=str(tmp_path / "family"), timeout_seconds=3
    )
    leader, child = (int(number) for number in (await text_of(tmp_path / "family")).split())
    [guard] = set(group_of(leader)) - {leader, child}
    os.kill(guard, signal.SIGKILL)
    end = await end_of(connection, task)
    assert (end["outcome"], end["error"][:20]) == ("timed_out", "ran out of time afte")
    assert group_of(leader) == []
    await asyncio.wait_for(worker.runner.until_idle(), 10)
    assert "handler_ignores_interruption" not in capsys.readouterr().out


@BOTH
async def test_a_cancelled_one_may_tidy_up(
    connection: asyncpg.Connection,
    start_worker: StartWorker,
    tmp_path: Path,
    handler: str,
    suffix: str,
) -> None:
    await start_worker(*EVERY, **STEADY)
    file = tmp_path / "file"
    task = await add(connection, handler, f"heed{suffix}", file=str(file))
    assert await text_of(file) == "runs"
    assert await entries.request_cancel(connection, task)
    outcome = (await end_of(connection, task))["outcome"]
    assert file.read_text() == "heeded True"
    assert outcome == ("cancelled" if suffix else "completed"), "a value returned in time counts"


async def test_a_cancelled_one_that_does_not_heed_is_killed(
    connection: asyncpg.Connection, start_worker: StartWorker, tmp_path: Path
) -> None:
    worker = await start_worker(*EVERY, **STEADY)
    task = await add(connection, "process", "raise_family", file=str(tmp_path / "family"))
    numbers = [int(number) for number in (await text_of(tmp_path / "family")).split()]
    assert await entries.request_cancel(connection, task)
    assert (await end_of(connection, task))["outcome"] == "cancelled"
    await all_gone(numbers)
    await asyncio.wait_for(worker.runner.until_idle(), 10)


async def test_its_slot_is_free_when_the_process_has_ended(
    connection: asyncpg.Connection, start_worker: StartWorker, tmp_path: Path
) -> None:
    """It returns, and a thread that it left keeps it from ending: it is killed before the next one starts."""
    await start_worker(*EVERY, worker_concurrency=1, **STEADY)
    file = str(tmp_path / "file")
    first = await add(connection, "process", "linger", file=file)
    second = await add(connection, "process", "is_alive", file=file)
    assert (await end_of(connection, first))["outcome"] == "completed"
    assert (await end_of(connection, second))["result"] == "false"


@BOTH
async def test_its_time_limit_can_be_moved(
    connection: asyncpg.Connection, start_worker: StartWorker, handler: str, suffix: str
) -> None:
    await start_worker(*EVERY, **STEADY)
    task = await add(connection, handler, f"extend{suffix}", seconds=60, then=3, timeout_seconds=3)
    assert (await end_of(connection, task))["result"] == '"in time"'
    task = await add(connection, handler, f"extend{suffix}", seconds="soon", then=0)
    assert "the time limit was not moved" in (await end_of(connection, task))["error"]


async def test_without_its_claim_it_is_killed_and_nothing_is_reported(
    connection: asyncpg.Connection, start_worker: StartWorker, tmp_path: Path
) -> None:
    worker = await start_worker(*EVERY, shutdown_seconds=1, **STEADY)
    task = await add(
        connection, "process", "raise_family", file=str(tmp_path / "family"), max_attempts=2
    )
    numbers = [int(number) for number in (await text_of(tmp_path / "family")).split()]
    (tmp_path / "family").unlink()
    worker.membership._lose()
    await all_gone(numbers)
    worker.membership.wake.set()
    again = [int(number) for number in (await text_of(tmp_path / "family")).split()]
    runs = await connection.fetch("SELECT outcome, reason FROM runs WHERE task_id = $1", task)
    assert [tuple(run) for run in runs] == [("lost", "outage")]
    await worker.stop()
    await all_gone(again)


async def test_who_asks_for_time_without_its_claim_is_killed(
    connection: asyncpg.Connection, start_worker: StartWorker, tmp_path: Path
) -> None:
    worker = await start_worker(*EVERY, **STEADY)
    task = await add(
        connection,
        "process",
        "heed_then_extend",
        file=str(tmp_path / "file"),
        go=str(tmp_path / "go"),
    )
    leader = int(await text_of(tmp_path / "file"))
    await connection.execute("UPDATE queue SET fence = fence + 1 WHERE task_id = $1", task)
    (tmp_path / "go").touch()
    await all_gone([leader])
    await asyncio.wait_for(worker.runner.until_idle(), 10)
    assert await connection.fetchval("SELECT count(*) FROM runs") == 0


async def test_at_the_workers_end_it_is_killed_and_given_back_uncounted(
    connection: asyncpg.Connection, start_worker: StartWorker, tmp_path: Path
) -> None:
    worker = await start_worker(*EVERY, shutdown_seconds=1, **STEADY)
    await add(connection, "process", "raise_family", file=str(tmp_path / "family"))
    leader, _ = (int(number) for number in (await text_of(tmp_path / "family")).split())
    await worker.stop()
    assert group_of(leader) == []
    assert dict(await connection.fetchrow("SELECT outcome, reason FROM runs")) == {
        "outcome": "released", "reason": "shutdown",
    }  # fmt: skip
    assert await connection.fetchval("SELECT attempt FROM queue") == 0


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGSTOP])
async def test_it_ends_with_its_worker_and_also_when_that_is_stopped_for_a_lease(
    connection: asyncpg.Connection,
    start_command: StartCommand,
    tmp_path: Path,
    blow: signal.Signals,
) -> None:
    worker = start_command(lease_seconds=6, heartbeat_seconds=1)
    await add(connection, "process", "raise_family", file=str(tmp_path / "family"))
    leader, _ = (int(number) for number in (await text_of(tmp_path / "family")).split())
    worker.process.send_signal(blow)
    await all_gone(group_of(leader))


async def test_it_may_not_take_more_memory_than_it_was_given(
    connection: asyncpg.Connection, start_worker: StartWorker
) -> None:
    await start_worker(*EVERY, **STEADY)
    taken = await add(connection, "small_process", "take_memory")
    failed = await add(connection, "small_process", "take_memory", then="raise")
    end = await end_of(connection, taken)
    assert 100 < int(end["result"]) < 315, "megabytes of 300 MiB"
    end = await end_of(connection, failed)
    assert (end["outcome"], end["error"].rstrip()[-11:]) == ("failed", "MemoryError")


async def test_what_it_prints_is_logged_in_bounds_and_is_no_answer(
    connection: asyncpg.Connection, start_command: StartCommand
) -> None:
    worker = start_command(log_format="json")
    task = await add(connection, "process", "print_much", lines=300_000)
    assert (await end_of(connection, task))["result"] == '"printed"'
    task = await add(connection, "process", "print_much", lines=3)
    assert (await end_of(connection, task))["result"] == '"printed"'

    async def all_there() -> bool:
        return "yyyyy" in worker.log()

    await eventually("the last line", all_there)
    lines = [json.loads(line) for line in worker.log().splitlines()]
    said = [line for line in lines if line["event"] == "handler_output"]
    assert [line["event"] for line in lines if line["event"].endswith("_cut")] == [
        "handler_output_cut"
    ]
    assert [line["line"] for line in said[:2]] == ["line 0", "line 1"]
    assert {line["handler"] for line in said} == {"process"}
    assert [len([line for line in said if line["task_id"] != str(task)]), max(len(line["line"]) for line in said)] == [
        1000, 2000,
    ]  # fmt: skip


async def test_a_fork_that_returns_too_is_not_heard(
    connection: asyncpg.Connection, start_worker: StartWorker
) -> None:
    await start_worker(*EVERY, **STEADY)
    for handler, do in (("process", "fork"), ("async_process", "fork_async")):
        task = await add(connection, handler, do, **{"and": "await"})
        assert (await end_of(connection, task))["result"] == "70", "the exit code of the fork"


async def test_all_children_are_the_handlers_own(
    connection: asyncpg.Connection, start_worker: StartWorker
) -> None:
    await start_worker(*EVERY, **STEADY)
    task = await add(connection, "process", "wait_for_children")
    assert (await end_of(connection, task))["result"] == "[2, 2, 2]"


async def test_nothing_of_a_run_stays_with_the_worker(
    connection: asyncpg.Connection, start_worker: StartWorker, tmp_path: Path
) -> None:
    """Neither descriptors nor threads, also of runs that leave a daemon behind."""

    def kept() -> list[str]:
        """Pipes and threads of runs; the worker's own connections come and go."""
        pipes = []
        for descriptor in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(OSError):
                pipes += [name] if (name := str(descriptor.readlink())).startswith("pipe:") else []
        return sorted(
            {*pipes, *(t.name for t in threading.enumerate() if t.name.startswith("handler "))}
        )

    worker = await start_worker(*EVERY, **STEADY)
    await end_of(connection, await add(connection, "process", "look"))
    await asyncio.wait_for(worker.runner.until_idle(), 10)
    before = kept()
    tasks = [
        await add(connection, "process", "leave_daemon", file=str(tmp_path / f"daemon-{n}"))
        for n in range(5)
    ]
    for task in tasks:
        assert (await end_of(connection, task))["outcome"] == "completed"
    daemons = [int(await text_of(tmp_path / f"daemon-{n}")) for n in range(5)]

    async def as_before() -> bool:
        return kept() == before

    try:
        await eventually("no pipe and no thread is left", as_before)
    finally:
        for number in daemons:
            os.kill(number, signal.SIGKILL)


@pytest.fixture
def adopting() -> Iterator[None]:
    """Orphans become children of this process, as they do of process 1 of a container."""
    library = ctypes.CDLL(None, use_errno=True)
    assert library.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    yield
    library.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


async def test_process_1_of_a_container_is_left_no_zombie(
    connection: asyncpg.Connection, start_worker: StartWorker, tmp_path: Path, adopting: None
) -> None:
    worker = await start_worker(*EVERY, **STEADY)
    task = await add(
        connection, "process", "raise_family", file=str(tmp_path / "family"), timeout_seconds=2
    )
    leader, _ = (int(number) for number in (await text_of(tmp_path / "family")).split())
    assert (await end_of(connection, task))["outcome"] == "timed_out"
    await asyncio.wait_for(worker.runner.until_idle(), 10)
    assert not has_children_in(leader)


async def test_it_is_found_by_the_entry_point_of_its_package(
    connection: asyncpg.Connection, start_command: StartCommand
) -> None:
    worker = start_command()
    end = await end_of(connection, await add(connection, "process", "look"))
    assert end["outcome"] == "completed", worker.log()
    assert json.loads(end["result"])["pid"] != worker.process.pid


ELSEWHERE = """
from task_service.worker import Context, handler

@handler("elsewhere", isolated=True)
def elsewhere(context: Context) -> str:
    return __name__
"""


async def test_it_imports_what_the_worker_can(
    connection: asyncpg.Connection,
    start_worker: StartWorker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "of_an_author.py").write_text(ELSEWHERE)
    monkeypatch.syspath_prepend(tmp_path)
    await start_worker(importlib.import_module("of_an_author").elsewhere, **STEADY)
    assert (await end_of(connection, await add(connection, "elsewhere", "")))[
        "result"
    ] == '"of_an_author"'


async def test_a_module_that_is_gone_is_what_the_attempt_says(
    connection: asyncpg.Connection,
    start_worker: StartWorker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "soon_gone.py").write_text(ELSEWHERE)
    monkeypatch.syspath_prepend(tmp_path)
    await start_worker(importlib.import_module("soon_gone").elsewhere, **STEADY)
    (tmp_path / "soon_gone.py").unlink()
    shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)
    assert (
        "No module named 'soon_gone'"
        in (await end_of(connection, await add(connection, "elsewhere", "")))["error"]
    )
