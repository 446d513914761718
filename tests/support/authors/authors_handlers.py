"""What authors of handlers do to a worker: an installed package with one handler for each way to run a function.

The payload names one of the functions below as `do`; what else it has is for that function.
"""

import asyncio
import contextlib
import ctypes
import itertools
import logging
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from task_service.worker import Cancel, Context, Discard, Retry, Snooze, handler

LONG_SECONDS = 600


def _chosen(context: Context) -> Callable[[Context], Any]:
    return globals()[context.payload["do"]]  # type: ignore[no-any-return]


@handler("coroutine")
async def coroutine(context: Context) -> Any:
    return await _chosen(context)(context)


@handler("thread")
def thread(context: Context) -> Any:
    return _chosen(context)(context)


@handler("process", isolated=True)
def process(context: Context) -> Any:
    return _chosen(context)(context)


@handler("small_process", isolated=True, memory_mb=300)
def small_process(context: Context) -> Any:
    return _chosen(context)(context)


@handler("async_process", isolated=True)
async def async_process(context: Context) -> Any:
    return await _chosen(context)(context)


EVERY = [coroutine, thread, process, small_process, async_process]


def _note(context: Context, text: str) -> None:
    """Write it to `file`, so that nobody reads half of it."""
    file = Path(context.payload["file"])
    file.with_suffix(".new").write_text(text)
    file.with_suffix(".new").rename(file)


# -- what it sees, returns and raises ---------------------------------------------------------------------------
def look(context: Context) -> Any:
    """All that the context says, and where this is."""
    said = {
        name: getattr(context, name)
        for name in ("attempt", "max_attempts", "fence", "queue", "payload", "cancelled")
    }
    return said | {
        "task_id": str(context.task_id),
        "worker_id": str(context.worker_id),
        "pid": os.getpid(),
        "folder": str(Path.cwd()),
        "first_to_go": Path("/proc/self/oom_score_adj").read_text().strip() == "1000",
    }


async def look_async(context: Context) -> Any:
    return look(context)


def tell(context: Context) -> None:
    """Say how far it is in all these `parts`, and wait to be cancelled."""
    for part in context.payload["parts"]:
        context.progress(part, f"{part} of it")
    while not context.cancelled:
        time.sleep(0.01)
    raise Cancel


async def tell_async(context: Context) -> None:
    """The same."""
    for part in context.payload["parts"]:
        context.progress(part, f"{part} of it")
    await asyncio.sleep(LONG_SECONDS)


async def nothing(_: Context) -> None:
    """Complete."""


class UnreadableError(Exception):
    def __str__(self) -> str:
        raise SystemExit("no text")


class UnpicklableError(Exception):
    def __init__(self, text: str) -> None:
        super().__init__(text, threading.Lock())


def fail(context: Context) -> None:
    """Raise `how`, on the first attempt only for words that bring another one."""
    errors: dict[str, Callable[[], BaseException]] = {
        "exit": lambda: SystemExit(3),
        "interrupt": KeyboardInterrupt,
        "base": lambda: BaseException("odd"),
        "unreadable": UnreadableError,
        "unpicklable": lambda: UnpicklableError("with a lock"),
        "long": lambda: ValueError("first" + "x" * 100_000 + "last"),
        "surrogate": lambda: ValueError("a \ud800 and a \x00"),
        "snooze": lambda: Snooze(0, "later"),
        "retry": lambda: Retry(0),
        "cancel": lambda: Cancel("not wanted"),
        "discard": lambda: Discard("never"),
        "cancelled": asyncio.CancelledError,
    }
    if context.fence == 1:
        raise errors[context.payload["how"]]()


async def fail_async(context: Context) -> None:
    fail(context)


async def fail_in_task(context: Context) -> None:
    """Raise it in a task of its own."""
    await asyncio.gather(fail_async(context), asyncio.sleep(0))


def give(context: Context) -> Any:
    """Return `what`."""
    cycle: list[Any] = []
    cycle.append(cycle)
    values: dict[str, Callable[[], Any]] = {
        "set": lambda: {1, 2},
        "nan": lambda: {"share": [float("nan")]},
        "cycle": lambda: cycle,
        "bytes": lambda: b"bytes",
        "surrogate": lambda: "\ud800",
        "huge": lambda: "x" * 100_000_000,
        "many": lambda: list(range(10_000_000)),
    }
    return values[context.payload["what"]]()


async def give_async(context: Context) -> Any:
    return give(context)


# -- time -------------------------------------------------------------------------------------------------------
def block(_: Context) -> None:
    time.sleep(LONG_SECONDS)


async def block_async(_: Context) -> None:
    time.sleep(LONG_SECONDS)  # noqa: ASYNC251 - the point


async def spin_async(_: Context) -> None:
    while True:
        pass


async def block_in_task(context: Context) -> None:
    await asyncio.gather(block_async(context), asyncio.sleep(0))


async def compute_async(context: Context) -> None:
    """Compute until there is the file `go`, and then for a moment of this process's own time."""
    logging.getLogger("author").warning("computing")
    while not os.path.exists(context.payload["go"]):  # noqa: ASYNC240, PTH110 - the point
        pass
    _compute(0.3)


def _compute(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


async def give_way_async(context: Context) -> None:
    """Compute for `seconds`, and give way now and then."""
    end = time.monotonic() + context.payload["seconds"]
    while time.monotonic() < end:
        _compute(0.01)
        await asyncio.sleep(0)


async def swallow_async(_: Context) -> None:
    """Block, whatever is raised: anything twice, and then any Exception."""
    for kind in itertools.chain([BaseException] * 2, itertools.repeat(Exception)):
        with contextlib.suppress(kind):
            time.sleep(LONG_SECONDS)  # noqa: ASYNC251


async def deadlock_async(_: Context) -> None:
    """Lock a lock of C twice: no signal ends that."""
    lock, library = ctypes.create_string_buffer(128), ctypes.CDLL(None)
    library.pthread_mutex_lock(lock)
    library.pthread_mutex_lock(lock)


async def hand_to_thread(_: Context) -> None:
    await asyncio.to_thread(time.sleep, LONG_SECONDS)


def heed(context: Context) -> str:
    """Say in `file` that it runs, wait to be cancelled, and say so there."""
    _note(context, "runs")
    while not context.cancelled:
        time.sleep(0.01)
    _note(context, "heeded True")
    return "done all the same"


async def heed_async(context: Context) -> None:
    _note(context, "runs")
    try:
        await asyncio.Event().wait()
    finally:
        _note(context, f"heeded {context.cancelled}")


def extend(context: Context) -> str:
    """Ask for a minute, then need more than the limit."""
    context.wait(context.extend(context.payload["seconds"]))
    time.sleep(context.payload["then"])
    return "in time"


async def extend_async(context: Context) -> str:
    await context.extend(context.payload["seconds"])
    await asyncio.sleep(context.payload["then"])
    return "in time"


def heed_then_extend(context: Context) -> None:
    """Say who we are, wait for the file `go`, ask for time, and go on whatever the answer is."""
    _note(context, str(os.getpid()))
    while not Path(context.payload["go"]).exists():
        time.sleep(0.01)
    with contextlib.suppress(Exception):
        context.wait(context.extend(60))
    time.sleep(LONG_SECONDS)


def transact(context: Context) -> None:
    context.transaction()


# -- processes --------------------------------------------------------------------------------------------------
def die(context: Context) -> None:
    """End this process by signal `by`, or with exit code `code`."""
    if "by" in context.payload:
        os.kill(os.getpid(), context.payload["by"])
    os._exit(context.payload["code"])


def raise_family(context: Context) -> None:
    """Start a program, write our number and its own to `file`, and block."""
    child = subprocess.Popen(["sleep", str(LONG_SECONDS)])
    _note(context, f"{os.getpid()} {child.pid}")
    child.wait()


def leave_daemon(context: Context) -> None:
    """Leave a process behind that has left the group, and holds what it inherited."""
    daemon = subprocess.Popen(["sleep", str(LONG_SECONDS)], start_new_session=True)
    _note(context, str(daemon.pid))


def wait_for_children(_: Context) -> list[int]:
    """Start two programs and wait for every child there is."""
    children = {os.posix_spawn("/bin/true", ["true"], {}) for _ in range(2)}
    seen = set()
    with contextlib.suppress(ChildProcessError):
        while True:
            seen.add(os.wait()[0])
    return [len(children), len(seen), len(children & seen)]


def fork(context: Context) -> Any:
    """Fork, and return in both processes; here with the other's exit code, after a pause if it is to come first."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return context.payload.get("and")


async def fork_async(context: Context) -> Any:
    """The same; the fork may wait first, for what never comes."""
    never = asyncio.get_running_loop().create_future()
    child = os.fork()
    if not child:
        if context.payload.get("and") == "await":
            await never
        return None
    return os.waitstatus_to_exitcode((await asyncio.to_thread(os.waitpid, child, 0))[1])


async def fork_in_task(context: Context) -> Any:
    async def task() -> int:
        never = asyncio.get_running_loop().create_future()
        child = os.fork()
        if not child:
            await never
        return os.waitstatus_to_exitcode((await asyncio.to_thread(os.waitpid, child, 0))[1])

    return await asyncio.create_task(task())


def use_in_fork(context: Context) -> str:
    """What the context says to a fork."""
    ours, theirs = os.pipe()
    if child := os.fork():
        os.waitpid(child, 0)
        return os.read(ours, 1000).decode()
    signal.alarm(20)
    try:
        context.wait(context.extend(5))
    except RuntimeError as error:
        os.write(theirs, repr(error).encode())
    finally:
        os._exit(0)


def _sleep_with_a_handler() -> None:
    signal.signal(signal.SIGTERM, lambda *_: os._exit(5))
    time.sleep(LONG_SECONDS)


def _sleep() -> None:
    time.sleep(LONG_SECONDS)


def terminate_children(_: Context) -> list[int | None]:
    """Start processes as multiprocessing does, and end them by SIGTERM: for one that is its end, one hears it."""
    children = [
        multiprocessing.get_context("fork").Process(target=f)
        for f in (_sleep, _sleep_with_a_handler)
    ]
    for child in children:
        child.start()
    time.sleep(0.5)
    for child in children:
        child.terminate()
        child.join(10)
        child.kill()
        child.join()
    return [child.exitcode for child in children]


async def terminate_children_async(context: Context) -> list[int | None]:
    return terminate_children(context)


# -- what is everybody's ----------------------------------------------------------------------------------------
async def take_signals(context: Context) -> None:
    """Take SIGTERM from the worker."""
    ways: dict[str, Callable[[], Any]] = {
        "ignore": lambda: signal.signal(signal.SIGTERM, signal.SIG_IGN),
        "default": lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL),
        "own": lambda: signal.signal(signal.SIGTERM, lambda *_: None),
        "loop": lambda: asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, lambda: None),
        "removed": lambda: asyncio.get_running_loop().remove_signal_handler(signal.SIGTERM),
        "wakeup": lambda: signal.set_wakeup_fd(-1),
    }
    ways[context.payload["how"]]()
    await asyncio.sleep(1)


def leak_threads(_: Context) -> None:
    for _number in range(50):
        threading.Thread(target=time.sleep, args=(LONG_SECONDS,), daemon=False).start()


def linger(context: Context) -> int:
    """Return, and keep the process from ending."""
    threading.Thread(target=time.sleep, args=(LONG_SECONDS,)).start()
    _note(context, str(os.getpid()))
    return os.getpid()


def is_alive(context: Context) -> bool:
    """Whether the process whose number is in `file` is there."""
    return Path("/proc", Path(context.payload["file"]).read_text()).exists()


def move(context: Context) -> None:
    """Change what a process has one of."""
    gone = Path(context.payload["folder"])
    gone.mkdir()
    os.chdir(gone)
    gone.rmdir()
    os.umask(0o777)
    os.environ["LC_ALL"] = "tr_TR.UTF-8"


def print_much(context: Context) -> str:
    """Print `lines` lines and one very long one."""
    for number in range(context.payload["lines"]):
        print("line", number)
    print("y" * 1_000_000, file=sys.stderr)
    return "printed"


def log_much(_: Context) -> None:
    for number in range(20_000):
        logging.getLogger("author").warning("line %d", number)


def take_memory(context: Context) -> int:
    """Take memory to the bound; return how many megabytes it was, or let the error out."""
    taken: list[bytes] = []
    try:
        while True:
            taken.append(bytes(10_000_000))
    except MemoryError:
        if context.payload.get("then") == "raise":
            raise
        return len(taken) * 10


def close_sockets(context: Context) -> int:
    """Close every socket of this process that is connected over TCP, in the first attempt."""
    closed = 0
    if context.fence > 1:
        return closed
    for number in [int(file.name) for file in Path("/proc/self/fd").iterdir()]:
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(number)) as found:
            if found.family == socket.AF_INET and found.getpeername():
                os.close(number)
                closed += 1
    return closed


async def cut_reports_off_async(context: Context) -> None:
    """In the first attempt, take away for good the connection by which this worker reports."""

    def cut() -> NoReturn:
        raise ConnectionError("cut off")

    if context.fence == 1:
        (reporting,) = (task for task in asyncio.all_tasks() if task.get_name() == "Reports.run")
        reporting.get_coro().cr_frame.f_locals["self"]._acquire = cut  # type: ignore[union-attr]


def close_everything(_: Context) -> None:
    """Close as one that wants to be a daemon."""
    os.closerange(3, 256)
