"""What a handler does stays its own: a fork does not become a second worker, an exit does not end
this one.

A coroutine that forks has two processes come back into the event loop, with one set of connections
between them. And asyncio lets SystemExit and KeyboardInterrupt that end a task go on out of the
loop, which would end the worker.
"""

import asyncio
import contextvars
import os
import signal
import sys
from collections.abc import Coroutine
from typing import Any, NoReturn

import structlog

IN_HANDLER = contextvars.ContextVar("in_handler", default=False)
"""Whether what runs was begun by a handler; tasks and threads that it starts inherit this."""
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
FORK_CODE = 70
log = structlog.get_logger(__name__)


class HandlerExitError(RuntimeError):
    """A task that a handler had started raised SystemExit or KeyboardInterrupt."""


class Process:
    """This process: whether it is a fork of a worker's, made by a handler."""

    is_worker = False
    is_fork = False

    @classmethod
    def becomes_worker(cls) -> None:
        """From now on forks of this process are a handler's."""
        if not cls.is_worker:
            os.register_at_fork(after_in_child=cls._becomes_fork)
        cls.is_worker, cls.is_fork = True, False

    @classmethod
    def _becomes_fork(cls) -> None:
        """A signal to the fork must neither be swallowed nor, by the common wake-up socket, reach
        the worker.
        """
        cls.is_fork = True
        signal.set_wakeup_fd(-1)
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_DFL)


def refuse_in_fork() -> None:
    """RuntimeError in a fork: the connections and the event loop are the worker's."""
    if Process.is_fork:
        raise RuntimeError(
            "this process is a fork of the worker's, which alone may use the context"
        )


def end_fork() -> NoReturn:
    """End this fork, which was about to go on as a second worker."""
    try:
        log.warning(
            "fork_ended",
            pid=os.getpid(),
            meaning="a handler forked, and returned in both processes",
        )
    finally:
        os._exit(FORK_CODE)


class Contained(Coroutine[Any, Any, Any]):
    """A coroutine, step by step: a fork ends where it would wait, and give control back to the
    event loop.

    Where a fork returns or raises is for the coroutine itself to see to.
    """

    __slots__ = ("_coroutine",)

    def __init__(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self._coroutine = coroutine

    def send(self, value: Any) -> Any:
        """Go on to where it waits next."""
        waits_for = self._coroutine.send(value)
        if Process.is_fork:
            end_fork()
        return waits_for

    def throw(self, error: Any, *rest: Any) -> Any:
        """Go on with an error raised where it waits."""
        waits_for = self._coroutine.throw(error, *rest)
        if Process.is_fork:
            end_fork()
        return waits_for

    def close(self) -> None:
        """End where it waits."""
        self._coroutine.close()

    def __await__(self) -> Any:
        return self._coroutine.__await__()


def contain_tasks(loop: asyncio.AbstractEventLoop) -> None:
    """From now on also the tasks that handlers start on this loop are contained."""
    if loop.get_task_factory() is None:
        loop.set_task_factory(_task)


def _task(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> "asyncio.Task[Any]":
    if IN_HANDLER.get():
        coroutine = Contained(_without_exit(coroutine))
    return asyncio.Task(coroutine, loop=loop, **options)


async def _without_exit(coroutine: Coroutine[Any, Any, Any]) -> Any:
    try:
        return await coroutine
    except (SystemExit, KeyboardInterrupt) as error:
        raise HandlerExitError(f"a task of the handler raised {error!r}") from error
    finally:
        if Process.is_fork and not isinstance(
            sys.exception(), GeneratorExit
        ):  # closed, as garbage: it did not go on
            end_fork()
