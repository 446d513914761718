"""The process of one isolated run: `python -m task_service.worker.isolation.child CHANNEL LIFE
SILENCE_SECONDS`.

CHANNEL is the descriptor of a socket to the worker. The worker sends one line of JSON, the order;
back go lines `["extend", seconds]`, each answered by one line, lines `["progress", [fraction,
note]]`, and in the end `[KIND, fields]`: how the run ended. LIFE is the descriptor of a pipe on
which the worker says, more often than every SILENCE_SECONDS, that it is there.
"""

import contextlib
import dataclasses
import importlib
import json
import operator
import os
import resource
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Awaitable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar
from uuid import UUID

import orjson

from task_service.domain.progress import Progress, check_progress
from task_service.worker.endings import (
    CANCELLED_ITSELF,
    NO_TRANSACTION,
    Ending,
    Failed,
    Returned,
    call,
    encode_result,
    ending_of,
    storable,
)
from task_service.worker.handlers import Handler

if TYPE_CHECKING:
    import asyncio

T = TypeVar("T")
FORK_CODE = 70
TELL_SECONDS = 0.5


class Channel:
    """The socket to the worker."""

    def __init__(self, number: int) -> None:
        self._socket = socket.socket(fileno=number)
        self._lines = self._socket.makefile("rb")
        self._asking, self._sending = threading.Lock(), threading.Lock()

    def receive(self) -> Any:
        """The next line. EOFError: the worker is gone."""
        if not (line := self._lines.readline()):
            raise EOFError
        return json.loads(line)

    def send(self, kind: str, said: Any) -> None:
        """Send a line; whoever comes meanwhile waits."""
        with self._sending:
            self._socket.sendall(orjson.dumps([kind, said]) + b"\n")

    def ask(self, kind: str, said: Any) -> Any:
        """Send a line and wait for the answer; one thread at a time."""
        with self._asking:
            self.send(kind, said)
            return self.receive()

    def close(self) -> None:
        """A fork has no part in it."""
        self._lines.close()
        self._socket.close()


class IsolatedContext:
    """What an isolated handler may know and do (see `handlers.Context`)."""

    def __init__(self, order: dict[str, Any], channel: Channel) -> None:
        self.task_id, self.worker_id = UUID(order["task_id"]), UUID(order["worker_id"])
        self.attempt, self.max_attempts, self.fence = (
            order["attempt"],
            order["max_attempts"],
            order["fence"],
        )
        self.queue, self.payload = order["queue"], order["payload"]
        self.cancelled = False
        self._channel = channel
        self._runner: asyncio.Runner | None = None
        self._said: Progress | None = None
        self._teller: threading.Thread | None = None

    def transaction(self) -> NoReturn:
        """There is none."""
        raise RuntimeError(NO_TRANSACTION)

    async def extend(self, seconds: float) -> None:
        """See `handlers.Context.extend`. RuntimeError: the worker could not."""
        import asyncio  # noqa: PLC0415 - half of a process's start, and plain functions do without

        if problem := await asyncio.to_thread(self._channel.ask, "extend", seconds):
            raise RuntimeError(f"the time limit was not moved: {problem}")

    def progress(self, fraction: float, note: str | None = None) -> None:
        """See `handlers.Context.progress`."""
        self._said = check_progress(fraction, note)
        if self._teller is None:
            self._teller = threading.Thread(target=self._tell, name="progress", daemon=True)
            self._teller.start()

    def _tell(self) -> None:
        """Send what was said last, now and then: a handler may say more than the worker should have
        to read.
        """
        told = None
        with contextlib.suppress(OSError):  # the worker is gone
            while True:
                if (said := self._said) is not told and said is not None:
                    self._channel.send("progress", list(said))
                    told = said
                time.sleep(TELL_SECONDS)

    def wait(self, awaitable: Awaitable[T]) -> T:
        """See `handlers.Context.wait`; the loop stays the same."""
        import asyncio  # noqa: PLC0415

        from task_service.worker.isolation.fork_safety import (  # noqa: PLC0415
            IN_HANDLER,
            Contained,
            Process,
            contain_tasks,
        )

        async def run() -> T:
            IN_HANDLER.set(True)
            return await awaitable

        if self._runner is None:
            self._runner = asyncio.Runner()
            Process.becomes_worker()
            contain_tasks(self._runner.get_loop())
        result: T = self._runner.run(Contained(run()))
        return result

    def close(self) -> None:
        """End what the handler left on the loop."""
        if self._runner is not None:
            self._runner.close()


def main() -> None:
    """Run the handler of one order, and say how it ended."""
    channel_number, life, silence_seconds = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    start_guard(life, silence_seconds, channel_number)
    channel = Channel(channel_number)
    os.register_at_fork(after_in_child=channel.close)
    order = channel.receive()
    with contextlib.suppress(
        OSError
    ):  # Linux: when memory runs out this process is taken, and not the worker
        Path("/proc/self/oom_score_adj").write_text("1000")
    if (
        order["memory_mb"] is not None
    ):  # of data: the address space, RLIMIT_AS, has the libraries' code as well
        resource.setrlimit(resource.RLIMIT_DATA, (order["memory_mb"] << 20,) * 2)
    sys.path[:] = order["path"]
    context = IsolatedContext(order, channel)
    number = os.getpid()
    try:
        ending = run(find(order["function"]), context)
    except BaseException as error:  # noqa: BLE001 - the import's, or one that went through the event loop
        ending = ending_of(error)
    if os.getpid() != number:  # the handler forked, and returned in both
        os._exit(FORK_CODE)
    channel.send(*message(ending))
    context.close()


def start_guard(life: int, silence_seconds: float, *others: int) -> None:
    """Start a process that kills this group when the worker is gone or silent: what hangs here
    cannot hold it up.

    It is nobody's child here, so that a handler may wait for all of its own.
    """
    if child := os.fork():
        os.waitpid(child, 0)
        os.close(life)
        return
    if os.fork():
        os._exit(0)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    for other in others:
        os.close(other)
    while select.select([life], [], [], silence_seconds)[0] and os.read(life, 4096):
        pass
    os.killpg(os.getpgrp(), signal.SIGKILL)


def find(path: str) -> Handler:
    """The handler of `module:name`, as the function is called there."""
    module, _, name = path.partition(":")
    found = operator.attrgetter(name)(importlib.import_module(module))
    return found if isinstance(found, Handler) else Handler(name, found)


def run(handler: Handler, context: IsolatedContext) -> Ending | None:
    """Call the function; SIGTERM interrupts a coroutine, and a plain function may look at
    `context.cancelled`.
    """
    if handler.is_async:
        return context.wait(drive(handler, context))
    signal.signal(signal.SIGTERM, lambda *_: setattr(context, "cancelled", True))
    return call(handler.function, context)


async def drive(handler: Handler, context: IsolatedContext) -> Ending | None:
    """Await the function."""
    import asyncio  # noqa: PLC0415

    me = asyncio.current_task()

    def interrupt() -> None:
        context.cancelled = True
        if me is not None:
            me.cancel()

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, interrupt)
    try:
        return Returned(await handler.function(context))
    except asyncio.CancelledError:
        return Failed(CANCELLED_ITSELF)
    except BaseException as error:  # noqa: BLE001 - whatever it raises is said
        return ending_of(error)


def message(ending: Ending | None) -> tuple[str, dict[str, Any]]:
    """An ending as the worker reads it; a value that is not JSON is a failure.

    >>> kind, said = message(Returned({1, 2}))
    >>> kind, said["error"]
    ('Failed', 'the handler returned what is not JSON: Type is not JSON serializable: set')
    """
    if ending is None:
        return "Lost", {}
    if isinstance(ending, Returned):
        _, problem = encode_result(ending.value)
        if problem is None:
            return "Returned", {"value": ending.value}
        ending = Failed(problem)
    fields = {field.name: getattr(ending, field.name) for field in dataclasses.fields(ending)}
    return type(ending).__name__, {
        n: storable(v) if isinstance(v, str) else v for n, v in fields.items()
    }


if __name__ == "__main__":
    main()
