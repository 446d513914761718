"""What the author of a handler sees: the decorator, the context, and the words for how a run may
end.

    from task_service.worker import Context, Snooze, handler

    @handler("greet", timeout_seconds=60)
    async def greet(context: Context) -> dict:
        if not ready():
            raise Snooze(30)
        return {"said": f"hello {context.payload['name']}"}

A coroutine runs on the worker's event loop, a plain function in a thread of its own, an isolated
handler in a process. The returned value must be JSON. Packages offer handlers as entry points (see
`installed`).

This module imports little, for every process of an isolated handler imports it.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from uuid import UUID

from task_service.domain.outcomes import RetryPolicy

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from task_service.queue.statements import Connection

T = TypeVar("T")
MAX_DELAY_SECONDS = 10 * 365 * 86_400.0


class Retry(Exception):  # noqa: N818 - a word for what happens, not an error
    """This attempt failed; try again after so many seconds (None: by the retry policy). ValueError,
    TypeError.
    """

    def __init__(
        self, seconds: float | None = None, why: str = "the handler asked for a retry"
    ) -> None:
        super().__init__(why)
        self.seconds = None if seconds is None else _delay(seconds)


class Snooze(Exception):  # noqa: N818
    """Not now: run again after so many seconds; this attempt does not count. ValueError, TypeError."""

    def __init__(self, seconds: float, why: str | None = None) -> None:
        self.seconds = _delay(seconds)
        super().__init__(why or f"snoozed for {self.seconds:g} s")


class Cancel(Exception):  # noqa: N818
    """The task is to be cancelled."""


class Discard(Exception):  # noqa: N818
    """The task has failed and another attempt would not help."""


class LostClaimError(Exception):
    """This worker no longer holds the task: somebody else runs it. What the handler was about to
    write is undone.
    """


def _delay(seconds: float) -> float:
    """Seconds to wait; what has passed is now. ValueError (NaN, or more than ten years), TypeError.

    >>> _delay(-3)
    0.0
    """
    if math.isnan(seconds) or seconds > MAX_DELAY_SECONDS:
        raise ValueError(
            f"{seconds} is not a number of seconds to wait, from 0 to {MAX_DELAY_SECONDS:.0f}"
        )
    return max(0.0, float(seconds))


class Transaction(Protocol):
    """A transaction that holds the task: no other worker can have it before this one ends."""

    connection: Connection

    async def complete(self, result: Any = None) -> None:
        """Complete the task in this same commit; the handler's returned value is then not used."""


class Context(Protocol):
    """What a handler is given."""

    task_id: UUID
    attempt: int
    max_attempts: int
    fence: int
    worker_id: UUID
    queue: str
    payload: Any

    @property
    def cancelled(self) -> bool:
        """Whether the run is to end: cancelled, out of time, or its claim is lost. Coroutines are
        interrupted.

        An isolated handler sees only that it is cancelled: at its time limit, or without its claim,
        it is killed.
        """

    def transaction(self) -> AbstractAsyncContextManager[Transaction]:
        """Open a transaction that locks the task's queue row and checks worker and fence.

        Raises LostClaimError. Write through it whatever must happen once: a worker that was paused
        and overtaken changes nothing. Keep it short, and never hold it across other waiting. An
        isolated handler has none: RuntimeError.
        """

    async def extend(self, seconds: float) -> None:
        """Move this run's time limit to so many seconds from now. Raises LostClaimError."""

    def progress(self, fraction: float, note: str | None = None) -> None:
        """Say how far this run is, from 0 to 1, with a note of 200 characters (more are cut).
        TypeError, ValueError.

        Call it as often as you like: it only keeps what was said last, which the database has
        within a second or two.
        """

    def wait(self, awaitable: Awaitable[T]) -> T:
        """From a plain function: run something asynchronous on the worker's loop (isolated: on one
        here), and wait.
        """


Function = Callable[[Context], Any]


@dataclass(frozen=True, slots=True)
class Handler:
    """A function and how it is to be run. ValueError when it cannot be run so."""

    name: str
    function: Function
    timeout_seconds: float | None = None
    retry: RetryPolicy | None = None
    isolated: bool = False
    memory_mb: int | None = None
    is_async: bool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "is_async", inspect.iscoroutinefunction(self.function))
        if self.isolated and "<" in getattr(self.function, "__qualname__", "<no name>"):
            raise ValueError(
                f"{self.name}: an isolated handler must be a function that its module has by name"
            )
        if self.memory_mb is not None and not self.isolated:
            raise ValueError(
                f"{self.name}: memory_mb needs isolated=True, for the worker's memory is everybody's"
            )

    @property
    def path(self) -> str:
        """Where another process finds the function, such as `greetings.mail:greet`."""
        return f"{self.function.__module__}:{self.function.__qualname__}"


def handler(
    name: str,
    *,
    timeout_seconds: float | None = None,
    retry: RetryPolicy | None = None,
    isolated: bool = False,
    memory_mb: int | None = None,
) -> Callable[[Function], Handler]:
    """Make a function a handler. Without a time limit the task's own or the default one holds.

    An isolated one runs in a process of its own, which is killed at its time limit and may take so
    many megabytes.
    """

    def decorate(function: Function) -> Handler:
        return Handler(name, function, timeout_seconds, retry, isolated, memory_mb)

    return decorate


class Handlers:
    """The handlers that this process knows, by name."""

    def __init__(self, handlers: Iterable[Handler]) -> None:
        self._by_name = {h.name: h for h in handlers}

    def get(self, name: str) -> Handler | None:
        """The handler of this name; None when it is not known here."""
        return self._by_name.get(name)

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(self._by_name)
