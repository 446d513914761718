"""Running handlers: slots, time limits, interruption, and how each run ends.

A run reports exactly once. Its slot is free when its handler has really ended: a thread cannot be
stopped, so one that ignores its time limit goes on in its slot, and what it returns is thrown away.
A process is killed.
"""

import asyncio
import contextlib
import contextvars
import random
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID

import structlog
from opentelemetry.trace import Tracer

from task_service.domain.outcomes import Outcome, Reason, RetryPolicy
from task_service.queue.claims import Claim
from task_service.queue.results import Finished, GivenBack
from task_service.telemetry import metrics
from task_service.worker.context import RunContext
from task_service.worker.endings import (
    CANCELLED_ITSELF,
    Ending,
    Failed,
    Released,
    Returned,
    Stopped,
    call,
    ending_of,
)
from task_service.worker.handlers import Handler, Handlers
from task_service.worker.isolation.fork_safety import (
    IN_HANDLER,
    Contained,
    Process,
    contain_tasks,
    end_fork,
)
from task_service.worker.isolation.parent import IsolatedRun
from task_service.worker.spans import RunSpan
from task_service.worker.verdict import verdict

INTERRUPT_GRACE_SECONDS = 5.0
"""A handler that was told to stop has so long before its run is reported without it, and its
process killed.
"""
KILL_SECONDS = 2.0
AHEAD_SECONDS = 0.1
"""Tasks are claimed ahead for so long: far longer than a claim takes, and no time that others would
miss them for.
"""
ELSEWHERE_DELAY_SECONDS = 10.0
"""A task that this worker cannot run waits so long for another one."""
ERROR_LOG_MAX = 500
EAGER: dict[str, Any] = {"eager_start": True} if hasattr(asyncio, "eager_task_factory") else {}

log = structlog.get_logger(__name__)


class Reporter(Protocol):
    """Takes what runs come to, and sees that the database has it."""

    def add(self, worker_id: UUID, claim: Claim, end: Finished | GivenBack) -> None:
        """Take one; never blocks."""


class Run:
    """One attempt that is running here."""

    task: "asyncio.Task[None] | None" = None  # a coroutine's
    process: IsolatedRun | None = None  # with neither it is a thread
    reported = False
    why: Ending | None = None  # how it will end if it is interrupted; None: it is not
    interrupted_at = 0.0
    span: RunSpan | None = None  # None: traces are off

    def __init__(
        self, claim: Claim, worker_id: UUID, handler: Handler, context: RunContext
    ) -> None:
        self.claim, self.worker_id, self.handler, self.context = claim, worker_id, handler, context
        self.started = time.monotonic()

    def kill(self) -> None:
        """End it by force, where that can be done."""
        if self.process is not None:
            self.process.kill()


class Runner:
    """The slots of one worker process."""

    def __init__(
        self,
        handlers: Handlers,
        make_context: Callable[[Claim, UUID], RunContext],
        reporter: Reporter,
        policy: RetryPolicy,
        default_timeout_seconds: float,
        tracer: Tracer | None = None,
    ) -> None:
        self.handlers, self.reporter, self.policy, self.tracer = handlers, reporter, policy, tracer
        self._make_context = make_context
        self.default_timeout_seconds = default_timeout_seconds
        self.running: set[Run] = set()
        self.slot_free = asyncio.Event()
        self.on_slot_free: Callable[[], None] = lambda: None
        self.on_room: Callable[[], None] = lambda: (
            None
        )  # a task under a limit ended in its handler's transaction
        self.counts = {"completed": 0, "failed": 0}
        self.random: Callable[[], float] = random.random  # spreads retries
        self.silence_seconds = (
            10.0  # processes of isolated runs end when this worker says nothing for so long
        )
        self._folder = Path.cwd()  # a handler may leave it
        self._variables = (
            contextvars.copy_context()
        )  # what a run starts with, and not those of the run before it
        self._variables.run(IN_HANDLER.set, True)
        self._seconds: dict[str, float] = {}  # how long a handler takes, a moving average
        Process.becomes_worker()
        contain_tasks(asyncio.get_running_loop())

    # -- starting
    # -----------------------------------------------------------------------------------------------
    def start(self, claim: Claim, worker_id: UUID) -> None:
        """Run a claimed task in a slot of its own; the caller has seen that one is free."""
        handler = self.handlers.get(claim.handler)
        if handler is None:
            log.warning("handler_unknown", handler=claim.handler, task_id=str(claim.task_id))
            self._send(
                claim,
                worker_id,
                Released(Reason.UNKNOWN_HANDLER, ELSEWHERE_DELAY_SECONDS),
                self.policy,
            )
            return
        if claim.cancel_requested:
            self._send(claim, worker_id, Stopped(Outcome.CANCELLED), self.policy)
            return
        limit = claim.timeout_seconds or handler.timeout_seconds or self.default_timeout_seconds
        run = Run(claim, worker_id, handler, self._make_context(claim, worker_id))
        run.context.deadline = run.started + limit
        self.running.add(run)
        variables = self._variables.copy()
        if self.tracer is not None:
            run.span = RunSpan(self.tracer, claim, worker_id)
            run.span.enter(variables)
        if handler.is_async and not handler.isolated:
            coroutine = Contained(self._drive(run))
            run.task = asyncio.Task(
                coroutine, loop=asyncio.get_running_loop(), context=variables, **EAGER
            )
        else:
            self._start_thread(run, variables)

    async def _drive(self, run: Run) -> None:
        """Await a handler; nothing that it raises gets any further."""
        ending: Ending | None
        try:
            ending = Returned(await run.handler.function(run.context))
        except asyncio.CancelledError:
            ending = run.why or Failed(CANCELLED_ITSELF)
        except BaseException as error:  # noqa: BLE001 - also SystemExit: a handler must not end the worker
            ending = ending_of(error)
        self._ended(run, ending)

    def _start_thread(self, run: Run, variables: contextvars.Context) -> None:
        """A plain function runs in it; for an isolated handler it waits for the process."""
        claim = run.claim
        if run.handler.isolated:
            run.process = IsolatedRun(run.handler, run.context, self._folder, self.silence_seconds)
        name = f"handler {claim.handler} {claim.task_id}"
        arguments = (self._thread, run, asyncio.get_running_loop())
        try:
            threading.Thread(target=variables.run, args=arguments, name=name, daemon=True).start()
        except RuntimeError as error:  # the system gives no more of them
            log.error(
                "thread_not_started",
                task_id=str(claim.task_id),
                threads=threading.active_count(),
                error=str(error),
            )
            self._ended(run, Released(Reason.OUTAGE, ELSEWHERE_DELAY_SECONDS))

    def _thread(self, run: Run, loop: asyncio.AbstractEventLoop) -> None:
        try:
            ending = run.process.run() if run.process else call(run.handler.function, run.context)
        except Exception as error:  # noqa: BLE001 - it is said in the attempt's record
            ending = ending_of(error)
        if Process.is_fork:
            end_fork()
        try:
            loop.call_soon_threadsafe(self._ended, run, ending)
        except RuntimeError:
            log.warning(
                "thread_outlived_worker", task_id=str(run.claim.task_id)
            )  # the loop is closed; it was reported

    # -- ending
    # -------------------------------------------------------------------------------------------------
    def _ended(self, run: Run, ending: Ending | None) -> None:
        if Process.is_fork:
            end_fork()
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
        self.running.discard(run)
        self.slot_free.set()
        self.on_slot_free()

    def _report(self, run: Run, ending: Ending) -> None:
        run.reported = True
        run.context.end()
        end = None
        if run.context.completed:  # in the handler's own transaction
            self.counts["completed"] += 1
            metrics.FINISHED.labels(run.claim.queue, run.claim.handler, Outcome.COMPLETED).inc()
            if run.claim.limited:
                self.on_room()
        elif not run.context.lost:
            end = self._send(run.claim, run.worker_id, ending, run.handler.retry or self.policy)
        if run.span is not None:
            run.span.end(end, lost=run.context.lost)

    def _send(
        self, claim: Claim, worker_id: UUID, ending: Ending, policy: RetryPolicy
    ) -> Finished | GivenBack:
        end = verdict(claim, ending, policy, self.random())
        if isinstance(end, Finished):
            self.counts["completed" if end.outcome is Outcome.COMPLETED else "failed"] += 1
        if isinstance(ending, Failed):
            log.warning(
                "attempt_failed",
                task_id=str(claim.task_id),
                handler=claim.handler,
                attempt=claim.attempt,
                error=ending.error.rstrip().rsplit("\n", 1)[-1][:ERROR_LOG_MAX],
            )
        self.reporter.add(worker_id, claim, end)
        return end

    # -- interrupting
    # -------------------------------------------------------------------------------------------
    def interrupt(self, run: Run, why: Ending) -> None:
        """Tell a run to stop; if it does not within the grace, it is reported as `why` without it."""
        if run.why is None and not run.reported:
            run.why, run.interrupted_at = why, time.monotonic()
            run.context.interrupt()
            if run.span is not None:
                run.span.interrupted(why)
            if run.task is not None:
                run.task.cancel()
            if run.process is not None:
                run.process.terminate()

    def cancel(self, task_id: UUID) -> None:
        """A person cancelled the task."""
        for run in list(self.running):
            if run.claim.task_id == task_id:
                self.interrupt(run, Stopped(Outcome.CANCELLED))

    def enforce(self) -> None:
        """Interrupt runs that are over their time, and report those that did not heed an
        interruption.
        """
        now = time.monotonic()
        for run in list(self.running):
            if run.process is not None:
                run.process.beat()
            if run.why is None and now > run.context.deadline:
                seconds = now - run.started
                timed_out = Failed(f"ran out of time after {seconds:.1f} s", Outcome.TIMED_OUT)
                self.interrupt(run, timed_out)
                run.kill()
                if run.task is None and run.process is None:
                    self._report(run, timed_out)
            elif (
                run.why is not None
                and not run.reported
                and now > run.interrupted_at + INTERRUPT_GRACE_SECONDS
            ):
                log.warning(
                    "handler_ignores_interruption",
                    task_id=str(run.claim.task_id),
                    handler=run.claim.handler,
                )
                run.kill()
                self._report(run, run.why)

    async def give_back(self, reason: Reason) -> None:
        """Give every running task back at once (the grace period is over); a process is killed
        first.
        """
        for run in list(self.running):
            self.interrupt(run, Released(reason))
            run.kill()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(KILL_SECONDS):
                while any(run.process for run in self.running):
                    await self.until_slot_free()
        for run in list(self.running):
            if not run.reported:
                self._report(run, Released(reason))

    def abandon(self) -> None:
        """Drop everything: the claims are lost. Nothing is reported; the slots are free for new
        claims.
        """
        for run in list(self.running):
            metrics.CLAIMS_LOST.inc()
            run.context.lost = True
            self.interrupt(run, Released(Reason.UNKNOWN))
            run.kill()
            run.reported = True
            if run.task is not None:
                self.running.discard(run)
        self.slot_free.set()

    async def until_idle(self) -> None:
        """Wait until nothing runs here."""
        while self.running:
            await self.until_slot_free()

    def until_slot_free(self) -> Awaitable[object]:
        """The end of the next run, from this call on."""
        self.slot_free.clear()
        return self.slot_free.wait()

    def ahead(self, slots: int) -> int:
        """How many tasks so many slots get through in AHEAD_SECONDS, by the slowest handler seen
        here.

        0 when that takes longer itself, or none has ended yet.
        """
        slowest = max(self._seconds.values(), default=AHEAD_SECONDS)
        return int(slots * AHEAD_SECONDS / max(slowest, 1e-6)) if slowest < AHEAD_SECONDS else 0
