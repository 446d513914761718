"""Run a handler in tests, with the worker's rules but without a database or a worker.

>>> from task_service.worker import Context, Snooze, handler
>>> @handler("greet")
... async def greet(context: Context) -> dict[str, str]:
...     if context.attempt == 1:
...         raise Snooze(30, "not before breakfast")
...     return {"text": f"Hello {context.payload['name']}"}
>>> ended = run_inline(greet, {"name": "Ada"})
>>> ended.outcome.value, ended.delay_seconds, ended.reason
('snoozed', 30.0, 'not before breakfast')
>>> run_inline(greet, {"name": "Ada"}, attempt=2).result
{'text': 'Hello Ada'}
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, cast
from uuid import UUID

import asyncpg
import orjson

from task_service.domain.ids import new_id
from task_service.domain.outcomes import Outcome, RetryPolicy
from task_service.domain.progress import Progress, check_progress
from task_service.queue.claims import Claim
from task_service.queue.results import Finished, GivenBack
from task_service.queue.statements import Connection
from task_service.worker.context import HeldTransaction, RunContext
from task_service.worker.endings import NO_TRANSACTION, encode_result
from task_service.worker.handlers import Handler, Handlers
from task_service.worker.runner import Runner

DEFAULT_TIMEOUT_SECONDS = 3600.0
ENFORCE_SECONDS = 0.05
NO_SPREAD = 0.5


@dataclass(frozen=True, slots=True)
class Ended:
    """The result of a run.

    `result` is the JSON that a worker would store. `error` is also the reason of a cancel or
    discard, `reason` that of a snooze. `progress` contains every report in order; a worker stores
    the last one of each second. The task would run again after `delay_seconds`, to which a worker
    adds jitter; None means that it has ended.
    """

    outcome: Outcome
    result: Any = None
    error: str | None = None
    delay_seconds: float | None = None
    reason: str | None = None
    progress: tuple[Progress, ...] = ()


def run_inline(
    handler: Handler,
    payload: Any = None,
    *,
    attempt: int = 1,
    max_attempts: int = 5,
    fence: int = 1,
) -> Ended:
    """Run a handler once.

    Raises TypeError if the payload is not JSON, and RuntimeError within an event loop.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(
            run_inline_async(
                handler, payload, attempt=attempt, max_attempts=max_attempts, fence=fence
            )
        )
    raise RuntimeError("within an event loop, use: await run_inline_async(…)")


async def run_inline_async(
    handler: Handler,
    payload: Any = None,
    *,
    attempt: int = 1,
    max_attempts: int = 5,
    fence: int = 1,
    connection: Connection | None = None,
) -> Ended:
    """Run a handler once. `context.transaction()` is a transaction of `connection`.

    An isolated handler also runs in this process, so that a test can inspect it, but has no
    transaction. Raises TypeError if the payload is not JSON.
    """
    claim = _claim(handler, orjson.loads(orjson.dumps(payload)), (attempt, max_attempts, fence))
    context = InlineContext(claim, connection, isolated=handler.isolated)
    reports = Reports()
    handlers = Handlers([replace(handler, isolated=False, memory_mb=None)])
    runner = Runner(handlers, lambda *_: context, reports, RetryPolicy(), DEFAULT_TIMEOUT_SECONDS)
    runner.random = lambda: NO_SPREAD
    runner.start(claim, context.worker_id)
    while any(not run.reported for run in runner.running):
        runner.enforce()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(runner.until_idle(), ENFORCE_SECONDS)
    if context.completed:
        return Ended(Outcome.COMPLETED, context.result, progress=tuple(context.reported))
    return replace(_ended(reports.end), progress=tuple(context.reported))


class Reports:
    """Stores the result of the run."""

    end: Finished | GivenBack | None = None

    def add(self, _worker_id: UUID, _claim: Claim, end: Finished | GivenBack) -> None:
        """Store the result."""
        self.end = end


class InlineTransaction(HeldTransaction):
    """A transaction of the test's connection. Completing the task is only recorded."""

    result: Any = None

    async def complete(self, result: Any = None) -> None:
        """Record the completion. Raises ValueError if the result cannot be stored."""
        text, problem = encode_result(result)
        if problem:
            raise ValueError(problem)
        self.completes, self.result = True, _value(text)


class InlineContext(RunContext):
    """A run's context without a database."""

    def __init__(self, claim: Claim, connection: Connection | None, *, isolated: bool) -> None:
        super().__init__(claim, new_id(), cast("asyncpg.Pool", None))
        self.result: Any = None
        self.reported: list[Progress] = []
        self._connection, self._isolated = connection, isolated

    def transaction(self) -> AbstractAsyncContextManager[HeldTransaction]:  # type: ignore[override]
        # no generator
        """See `handlers.Context.transaction`; RuntimeError without a connection."""
        if self._isolated:
            raise RuntimeError(NO_TRANSACTION)
        if self._connection is None:
            raise RuntimeError(
                "context.transaction() needs a database: run_inline_async(…, connection=…)"
            )
        return self._transaction(self._connection)

    @asynccontextmanager
    async def _transaction(self, connection: Connection) -> AsyncIterator[HeldTransaction]:
        async with connection.transaction():
            held = InlineTransaction(connection, self)
            yield held
        self.completed, self.result = held.completes, held.result

    def progress(self, fraction: float, note: str | None = None) -> None:
        """See `handlers.Context.progress`."""
        self.reported.append(check_progress(fraction, note))

    async def extend(self, seconds: float) -> None:
        """See `handlers.Context.extend`."""
        self.deadline = time.monotonic() + seconds


def _claim(handler: Handler, payload: Any, numbers: tuple[int, int, int]) -> Claim:
    attempt, max_attempts, fence = numbers
    return Claim(
        task_id=new_id(),
        fence=fence,
        attempt=attempt,
        max_attempts=max_attempts,
        timeout_seconds=None,
        handler=handler.name,
        queue="default",
        priority=0,
        run_at=time.time(),
        waited=0.0,
        alone=False,
        cancel_requested=False,
        trace_context=None,
        limited=False,
        payload=payload,
    )


def _ended(end: Finished | GivenBack | None) -> Ended:
    match end:
        case Finished():
            return Ended(end.outcome, _value(end.result), end.error, reason=end.reason)
        case GivenBack():
            return Ended(end.outcome, None, end.error, end.delay_seconds, end.reason)
        case None:  # it raised LostClaimError
            return Ended(Outcome.LOST)


def _value(text: str | None) -> Any:
    return None if text is None else orjson.loads(text)
