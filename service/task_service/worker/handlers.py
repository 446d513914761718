"""What the author of a handler sees: the decorator, the context, and the words for how a run may end.

    from task_service.worker import Context, Snooze, handler

    @handler("greet", timeout_seconds=60)
    async def greet(context: Context) -> dict:
        if not ready():
            raise Snooze(30)
        return {"said": f"hello {context.payload['name']}"}

A coroutine runs on the worker's event loop, a plain function in a thread of its own. The returned value must be JSON.
Packages offer handlers as entry points of the group `task_service.handlers`.
"""

import inspect
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Protocol, TypeVar
from uuid import UUID

import structlog

from task_service.domain.outcomes import RetryPolicy
from task_service.queue.statements import Connection

T = TypeVar("T")
ENTRY_POINTS = "task_service.handlers"
log = structlog.get_logger(__name__)


class Retry(Exception):  # noqa: N818 - a word for what happens, not an error
    """This attempt failed; try again after so many seconds (None: by the retry policy)."""

    def __init__(self, seconds: float | None = None, why: str = "the handler asked for a retry") -> None:
        super().__init__(why)
        self.seconds = seconds


class Snooze(Exception):  # noqa: N818
    """Not now: run again after so many seconds; this attempt does not count."""

    def __init__(self, seconds: float, why: str | None = None) -> None:
        super().__init__(why or f"snoozed for {seconds:g} s")
        self.seconds = seconds


class Cancel(Exception):  # noqa: N818
    """The task is to be cancelled."""


class Discard(Exception):  # noqa: N818
    """The task has failed and another attempt would not help."""


class LostClaimError(Exception):
    """This worker no longer holds the task: somebody else runs it. What the handler was about to write is undone."""


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
        """Whether the run is to end: cancelled, out of time, or its claim is lost. Coroutines are interrupted."""

    def transaction(self) -> AbstractAsyncContextManager[Transaction]:
        """Open a transaction that locks the task's queue row and checks worker and fence.

        Raises LostClaimError. Write through it whatever must happen once: a worker that was paused and overtaken
        changes nothing. Keep it short, and never hold it across other waiting.
        """

    async def extend(self, seconds: float) -> None:
        """Move this run's time limit to so many seconds from now. Raises LostClaimError."""

    def wait(self, awaitable: Awaitable[T]) -> T:
        """From a plain function's thread: run something asynchronous on the worker's loop and wait for it."""


Function = Callable[[Context], Any]


@dataclass(frozen=True, slots=True)
class Handler:
    """A function and how it is to be run."""

    name: str
    function: Function
    timeout_seconds: float | None = None
    retry: RetryPolicy | None = None
    is_async: bool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "is_async", inspect.iscoroutinefunction(self.function))


def handler(
    name: str, *, timeout_seconds: float | None = None, retry: RetryPolicy | None = None
) -> Callable[[Function], Handler]:
    """Make a function a handler. Without a time limit the task's own or the default one holds."""

    def decorate(function: Function) -> Handler:
        return Handler(name, function, timeout_seconds, retry)

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


def installed_handlers() -> list[Handler]:
    """Load every handler that the installed packages offer; one that cannot be loaded is logged and left out."""
    return [found for entry in entry_points(group=ENTRY_POINTS) if (found := _load(entry))]


def _load(entry: EntryPoint) -> Handler | None:
    try:
        found = entry.load()
    except Exception as error:  # noqa: BLE001 - one broken package must not stop the others
        log.error("handler_not_loaded", handler=entry.name, source=entry.value, error=repr(error))
        return None
    if not isinstance(found, Handler):
        log.error("handler_not_loaded", handler=entry.name, source=entry.value, error="not made by @handler")
        return None
    return found
