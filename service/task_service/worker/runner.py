"""Running handlers: slots, time limits, interruption, and how each run ends.

A run reports exactly once. Its slot is free when its handler has really ended: a thread cannot be stopped, so one that
ignores its time limit goes on in its slot, and what it returns is thrown away.
"""

import asyncio
import contextvars
import random
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any, Protocol
from uuid import UUID

import structlog
from opentelemetry.trace import Tracer

from task_service.domain.outcomes import Outcome, Reason, RetryPolicy
from task_service.queue.claims import Claim
from task_service.queue.results import Finished, GivenBack
from task_service.telemetry import metrics
from task_service.worker.context import RunContext
from task_service.worker.handlers import Cancel, Discard, Handler, Handlers, LostClaimError, Retry, Snooze
from task_service.worker.spans import RunSpan
from task_service.worker.verdict import Ending, Failed, Released, Returned, Snoozed, Stopped, verdict

INTERRUPT_GRACE_SECONDS = 5.0
"""A handler that was told to stop has so long before its run is reported without it."""
FAST_SECONDS = 0.1
UNKNOWN_HANDLER_DELAY_SECONDS = 10.0
EAGER: dict[str, Any] = {"eager_start": True} if hasattr(asyncio, "eager_task_factory") else {}

log = structlog.get_logger(__name__)


class Reporter(Protocol):
    """Takes what runs come to, and sees that the database has it."""

    def add(self, worker_id: UUID, claim: Claim, end: Finished | GivenBack) -> None:
        """Take one; never blocks."""


class Run:
    """One attempt that is running here."""

    __slots__ = (
        "claim",
        "context",
        "handler",
        "interrupted_at",
        "reported",
        "span",
        "started",
        "task",
        "why",
        "worker_id",
    )

    def __init__(self, claim: Claim, worker_id: UUID, handler: Handler, context: RunContext) -> None:
        self.claim, self.worker_id, self.handler, self.context = claim, worker_id, handler, context
        self.started = time.monotonic()
        self.task: asyncio.Task[None] | None = None
        self.reported = False
        self.why: Ending | None = None  # how it will end if it is interrupted; None: it is not
        self.interrupted_at = 0.0
        self.span: RunSpan | None = None  # None: traces are off


class Runner:
    """The slots of one worker process."""

    def __init__(
        self,
        handlers: Handlers,
        reporter: Reporter,
        policy: RetryPolicy,
        default_timeout_seconds: float,
        tracer: Tracer | None = None,
    ) -> None:
        self.handlers, self.reporter, self.policy, self.tracer = handlers, reporter, policy, tracer
        self.default_timeout_seconds = default_timeout_seconds
        self.running: dict[UUID, Run] = {}
        self.slot_free = asyncio.Event()
        self.on_slot_free: Callable[[], None] = lambda: None
        self.idle = asyncio.Event()
        self.idle.set()
        self.counts = {"completed": 0, "failed": 0}
        self._variables = contextvars.copy_context()  # what a run starts with, and not those of the run before it
        self._seconds: dict[str, float] = {}  # how long a handler takes, a moving average

    # -- starting -----------------------------------------------------------------------------------------------
    def start(self, claim: Claim, worker_id: UUID, make_context: Callable[[Claim, UUID], RunContext]) -> None:
        """Run a claimed task in a slot of its own; the caller has seen that one is free."""
        handler = self.handlers.get(claim.handler)
        if handler is None:
            log.warning("handler_unknown", handler=claim.handler, task_id=str(claim.task_id))
            self._send(claim, worker_id, Released(Reason.UNKNOWN_HANDLER, UNKNOWN_HANDLER_DELAY_SECONDS))
            return
        if claim.cancel_requested:
            self._send(claim, worker_id, Stopped(Outcome.CANCELLED))
            return
        limit = claim.timeout_seconds or handler.timeout_seconds or self.default_timeout_seconds
        run = Run(claim, worker_id, handler, make_context(claim, worker_id))
        run.context.deadline = run.started + limit
        self.running[claim.task_id] = run
        self.idle.clear()
        variables = self._variables.copy()
        if self.tracer is not None:
            run.span = RunSpan(self.tracer, claim, worker_id)
            run.span.enter(variables)
        if handler.is_async:
            coroutine = self._drive(run, handler.function(run.context))
            run.task = asyncio.Task(coroutine, loop=asyncio.get_running_loop(), context=variables, **EAGER)
        else:
            name = f"handler {claim.handler} {claim.task_id}"
            arguments = (self._thread, run, asyncio.get_running_loop())
            threading.Thread(target=variables.run, args=arguments, name=name, daemon=True).start()

    async def _drive(self, run: Run, coroutine: Any) -> None:
        try:
            ending = await _ending(coroutine)
        except asyncio.CancelledError:
            ending = run.why or Failed("the handler cancelled itself (asyncio.CancelledError)")
        self._ended(run, ending)

    def _thread(self, run: Run, loop: asyncio.AbstractEventLoop) -> None:
        ending = _call(run.handler, run.context)
        try:
            loop.call_soon_threadsafe(self._ended, run, ending)
        except RuntimeError:
            log.warning("thread_outlived_worker", task_id=str(run.claim.task_id))  # the loop is closed; it was reported

    # -- ending -------------------------------------------------------------------------------------------------
    def _ended(self, run: Run, ending: Ending | None) -> None:
        seconds = time.monotonic() - run.started
        name = run.claim.handler
        self._seconds[name] = seconds + 0.8 * (self._seconds.get(name, seconds) - seconds)
        metrics.RUN_SECONDS.labels(run.claim.queue, name).observe(seconds)
        if run.why is not None and not isinstance(ending, Returned):
            ending = run.why
        if ending is not None and not run.reported:
            self._report(run, ending)
        if run.span is not None:
            run.span.end(None, lost=True)  # unless it was reported
        if self.running.get(run.claim.task_id) is run:
            del self.running[run.claim.task_id]
        self.slot_free.set()
        self.on_slot_free()
        if not self.running:
            self.idle.set()

    def _report(self, run: Run, ending: Ending) -> None:
        run.reported = True
        run.context.end()
        end = None
        if run.context.completed:  # in the handler's own transaction
            self.counts["completed"] += 1
            metrics.FINISHED.labels(run.claim.queue, run.claim.handler, Outcome.COMPLETED).inc()
        elif not run.context.lost:
            end = self._send(run.claim, run.worker_id, ending)
        if run.span is not None:
            run.span.end(end, lost=run.context.lost)

    def _send(self, claim: Claim, worker_id: UUID, ending: Ending) -> Finished | GivenBack:
        handler = self.handlers.get(claim.handler)
        policy = handler.retry if handler and handler.retry else self.policy
        end = verdict(claim, ending, policy, random.random())  # noqa: S311 - spreads retries
        if isinstance(end, Finished):
            self.counts["completed" if end.outcome is Outcome.COMPLETED else "failed"] += 1
        if isinstance(ending, Failed):
            log.warning(
                "attempt_failed",
                task_id=str(claim.task_id),
                handler=claim.handler,
                attempt=claim.attempt,
                error=ending.error.rstrip().rsplit("\n", 1)[-1],
            )
        self.reporter.add(worker_id, claim, end)
        return end

    # -- interrupting -------------------------------------------------------------------------------------------
    def interrupt(self, run: Run, why: Ending) -> None:
        """Tell a run to stop; if it does not within the grace, it is reported as `why` without it."""
        if run.why is None and not run.reported:
            run.why, run.interrupted_at = why, time.monotonic()
            run.context.interrupt()
            if run.span is not None:
                run.span.interrupted(why)
            if run.task is not None:
                run.task.cancel()

    def cancel(self, task_id: UUID) -> None:
        """A person cancelled the task."""
        if run := self.running.get(task_id):
            self.interrupt(run, Stopped(Outcome.CANCELLED))

    def enforce(self) -> None:
        """Interrupt runs that are over their time, and report those that did not heed an interruption."""
        now = time.monotonic()
        for run in list(self.running.values()):
            if run.why is None and now > run.context.deadline:
                seconds = now - run.started
                timed_out = Failed(f"ran out of time after {seconds:.1f} s", Outcome.TIMED_OUT)
                self.interrupt(run, timed_out)
                if run.task is None:
                    self._report(run, timed_out)
            elif run.why is not None and not run.reported and now > run.interrupted_at + INTERRUPT_GRACE_SECONDS:
                log.warning("handler_ignores_interruption", task_id=str(run.claim.task_id), handler=run.claim.handler)
                self._report(run, run.why)

    def give_back(self, reason: Reason) -> None:
        """Give every running task back at once (the grace period is over)."""
        for run in list(self.running.values()):
            self.interrupt(run, Released(reason))
            if not run.reported:
                self._report(run, Released(reason))

    def abandon(self) -> None:
        """Drop everything: the claims are lost. Nothing is reported; the slots are free for new claims."""
        for run in list(self.running.values()):
            metrics.CLAIMS_LOST.inc()
            run.context.lost = True
            self.interrupt(run, Released(Reason.UNKNOWN))
            run.reported = True
            if run.task is not None:
                self.running.pop(run.claim.task_id, None)
        if not self.running:
            self.idle.set()
        self.slot_free.set()

    def is_fast(self, name: str) -> bool:
        """Whether this handler is known to take so little time that prefetching pays."""
        return self._seconds.get(name, 1.0) < FAST_SECONDS

    def all_fast(self) -> bool:
        """Whether every handler seen here is fast."""
        return bool(self._seconds) and all(s < FAST_SECONDS for s in self._seconds.values())


async def _ending(coroutine: Any) -> Ending | None:
    """Await a handler and say how it ended; None when its claim was lost. Nothing it raises gets any further."""
    try:
        return Returned(await coroutine)
    except asyncio.CancelledError:
        raise
    except BaseException as error:  # noqa: BLE001 - also SystemExit: a handler must not end the worker
        return _ending_of(error)


def _call(handler: Handler, context: RunContext) -> Ending | None:
    try:
        return Returned(handler.function(context))
    except BaseException as error:  # noqa: BLE001 - see above
        return _ending_of(error)


def _ending_of(error: BaseException) -> Ending | None:
    match error:
        case Retry():
            return Failed(str(error), retry_seconds=error.seconds)
        case Snooze():
            return Snoozed(error.seconds, str(error))
        case Cancel():
            return Stopped(Outcome.CANCELLED, str(error) or None)
        case Discard():
            return Stopped(Outcome.DISCARDED, str(error) or None)
        case LostClaimError():
            return None
    try:
        return Failed("".join(traceback.format_exception(error)))
    except Exception:  # noqa: BLE001 - its __str__ raises
        return Failed(f"{type(error).__name__} (its text cannot be read)")
