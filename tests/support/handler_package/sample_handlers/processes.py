"""Functions that start, fork and end processes."""

import asyncio
import contextlib
import multiprocessing
import os
import signal
import subprocess
import time
from typing import Any

from task_service.worker import Context

from .common import LONG_SECONDS, write_file


def end_process(context: Context) -> None:
    """End this process by the signal `by` or with the exit code `code`."""
    if "by" in context.payload:
        os.kill(os.getpid(), context.payload["by"])
    os._exit(context.payload["code"])


def start_child_and_block(context: Context) -> None:
    """Start a child, write the ids of both processes to `file`, and block."""
    child = subprocess.Popen(["sleep", str(LONG_SECONDS)])
    write_file(context, f"{os.getpid()} {child.pid}")
    child.wait()


def leave_daemon(context: Context) -> None:
    """Leave a process running in a session of its own, with inherited descriptors."""
    daemon = subprocess.Popen(["sleep", str(LONG_SECONDS)], start_new_session=True)
    write_file(context, str(daemon.pid))


def wait_for_children(_: Context) -> list[int]:
    """Start two programs and wait for every child of this process."""
    children = {os.posix_spawn("/bin/true", ["true"], {}) for _ in range(2)}
    seen = set()
    with contextlib.suppress(ChildProcessError):
        while True:
            seen.add(os.wait()[0])
    return [len(children), len(seen), len(children & seen)]


def fork(context: Context) -> Any:
    """Fork, and return in both processes; the parent returns the exit code of the child."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return context.payload.get("and")


async def fork_async(context: Context) -> Any:
    """Fork as `fork` does; with `and` = "await" the child awaits a future that never ends."""
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


def use_context_in_fork(context: Context) -> str:
    """Use the context in a fork, and return the error that this raises."""
    reader, writer = os.pipe()
    if child := os.fork():
        os.waitpid(child, 0)
        return os.read(reader, 1000).decode()
    signal.alarm(20)
    try:
        context.wait(context.extend(5))
    except RuntimeError as error:
        os.write(writer, repr(error).encode())
    finally:
        os._exit(0)


def _sleep_with_sigterm_handler() -> None:
    signal.signal(signal.SIGTERM, lambda *_: os._exit(5))
    time.sleep(LONG_SECONDS)


def _sleep() -> None:
    time.sleep(LONG_SECONDS)


def terminate_children(_: Context) -> list[int | None]:
    """End multiprocessing children by SIGTERM: one with the default action, one with a handler."""
    children = [
        multiprocessing.get_context("fork").Process(target=f)
        for f in (_sleep, _sleep_with_sigterm_handler)
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
