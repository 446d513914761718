"""Functions that damage state which the whole worker process shares."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from task_service.worker import Context

from .common import LONG_SECONDS, write_file


async def replace_sigterm_handling(context: Context) -> None:
    """Replace the worker's handling of SIGTERM."""
    changes: dict[str, Callable[[], Any]] = {
        "ignore": lambda: signal.signal(signal.SIGTERM, signal.SIG_IGN),
        "default": lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL),
        "own": lambda: signal.signal(signal.SIGTERM, lambda *_: None),
        "loop": lambda: asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, lambda: None),
        "removed": lambda: asyncio.get_running_loop().remove_signal_handler(signal.SIGTERM),
        "wakeup": lambda: signal.set_wakeup_fd(-1),
    }
    changes[context.payload["how"]]()
    await asyncio.sleep(1)


def leak_threads(_: Context) -> None:
    for _number in range(50):
        threading.Thread(target=time.sleep, args=(LONG_SECONDS,), daemon=False).start()


def leave_thread_running(context: Context) -> int:
    """Return, but leave a thread that keeps the process alive."""
    threading.Thread(target=time.sleep, args=(LONG_SECONDS,)).start()
    write_file(context, str(os.getpid()))
    return os.getpid()


def is_process_alive(context: Context) -> bool:
    """Return whether the process whose id is in `file` exists."""
    return Path("/proc", Path(context.payload["file"]).read_text()).exists()


def change_process_state(context: Context) -> None:
    """Change the working folder, the umask and the environment of the process."""
    removed = Path(context.payload["folder"])
    removed.mkdir()
    os.chdir(removed)
    removed.rmdir()
    os.umask(0o777)
    os.environ["LC_ALL"] = "tr_TR.UTF-8"


def print_many_lines(context: Context) -> str:
    """Print `lines` lines and one very long one."""
    for number in range(context.payload["lines"]):
        print("line", number)
    print("y" * 1_000_000, file=sys.stderr)
    return "printed"


def log_many_lines(_: Context) -> None:
    for number in range(20_000):
        logging.getLogger("sample").warning("line %d", number)


def allocate_memory(context: Context) -> int:
    """Allocate memory up to the limit; return the megabytes, or raise if `then` is "raise"."""
    blocks: list[bytes] = []
    try:
        while True:
            blocks.append(bytes(10_000_000))
    except MemoryError:
        if context.payload.get("then") == "raise":
            raise
        return len(blocks) * 10


def close_sockets(context: Context) -> int:
    """Close every TCP connection of this process, under the first fence only."""
    closed = 0
    if context.fence > 1:
        return closed
    for number in [int(file.name) for file in Path("/proc/self/fd").iterdir()]:
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(number)) as connection:
            if connection.family == socket.AF_INET and connection.getpeername():
                os.close(number)
                closed += 1
    return closed


async def break_report_connection_async(context: Context) -> None:
    """Under the first fence, break the connection that reports results permanently."""

    def refuse() -> NoReturn:
        raise ConnectionError("broken by the handler")

    if context.fence == 1:
        (reporting,) = (task for task in asyncio.all_tasks() if task.get_name() == "Reports.run")
        reporting.get_coro().cr_frame.f_locals["self"]._acquire = refuse  # type: ignore[union-attr]


def close_all_descriptors(_: Context) -> None:
    """Close all descriptors, as a process does that becomes a daemon."""
    os.closerange(3, 256)
