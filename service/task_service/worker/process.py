"""One worker process: its loops, and how it starts, drains and leaves."""

import asyncio
import contextlib
import logging
import os
import threading
from collections.abc import Coroutine
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import asyncpg
import structlog

from task_service.domain.outcomes import Reason, RetryPolicy
from task_service.loops.admitter import Admitter
from task_service.loops.maintenance import Maintenance
from task_service.loops.scheduler import Scheduler
from task_service.queue.claims import Claim
from task_service.queue.statements import statement
from task_service.queue.wakeups import LIMITS, QUEUE_CHANNEL, Wakeups
from task_service.services.transactions import TransactionManager
from task_service.settings import Settings
from task_service.store.cache.cache import Cache
from task_service.store.database import LOOK_UPS, connect, create_engine, create_pool, looking_up
from task_service.store.persistent_connection import KeptConnection
from task_service.telemetry import get_tracer, metrics
from task_service.worker.builtin import builtin_handlers
from task_service.worker.claimer import Claimer
from task_service.worker.context import RunContext
from task_service.worker.dependents import Dependents
from task_service.worker.entry_points import installed_handlers
from task_service.worker.handlers import Handlers
from task_service.worker.listener import WORKER_CHANNEL, listen
from task_service.worker.membership import Membership
from task_service.worker.progress import ProgressNotes
from task_service.worker.reports import Reports
from task_service.worker.runner import Runner
from task_service.worker.watchdog import EXIT_CODE, Watchdog

HANDLERS_CONNECTIONS = 8
"""Opened only while handlers are in transactions of their own."""
ENFORCE_SECONDS = 0.25
LEAVE_SECONDS = 5.0
UNHEARD_LEASES = 2
log = structlog.get_logger(__name__)


class Worker:
    """Claims and runs tasks until it is told to stop. Survives the database being away."""

    def __init__(self, settings: Settings, handlers: Handlers | None = None) -> None:
        self.settings = settings
        self.handlers = handlers or Handlers([*installed_handlers(), *builtin_handlers(settings)])
        self.running_since: datetime = datetime.now(UTC)
        self._loops: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Start the loops; returns at once, whether or not the database answers."""
        s = self.settings
        # One connection each, which keeps its few statements warm; the other loops share one, and
        # come in turn.
        beating, claiming = (
            KeptConnection(self._own_connection),
            KeptConnection(self._claims_connection),
        )
        reporting = KeptConnection(self._reports_connection)
        aside, self._for_handlers = (
            await create_pool(s, 1),
            await create_pool(s, HANDLERS_CONNECTIONS),
        )
        self._ends = (
            beating.close,
            claiming.close,
            reporting.close,
            aside.terminate,
            self._for_handlers.terminate,
        )
        self._aside = aside.acquire
        self.reports, self.dependents = Reports(reporting.acquire), Dependents(self._aside)
        self.reports.on_awaited = self.dependents.add
        tracer = get_tracer() if s.otel_enabled else None
        policy = RetryPolicy(s.retry_base_seconds, s.retry_cap_seconds)
        self.runner = Runner(
            self.handlers, self._context_of, self.reports, policy, s.default_timeout_seconds, tracer
        )
        self.runner.silence_seconds = s.lease_seconds - s.heartbeat_seconds
        self._watchdog = Watchdog(s.lease_seconds)
        self._watchdog.start()
        self.membership = Membership(s, beating.acquire, self)
        beating.on_lost = self.membership.wake.set
        claims = looking_up(s, claiming.acquire)
        self.claimer = Claimer(s, claims, self.membership, self.runner, self.reports)
        claiming.on_lost = self.claimer.wake.set
        self.admitter = Admitter(self._aside, s.poll_seconds)
        self.reports.on_room = self.runner.on_room = self.admitter.request
        self._engine = create_engine(s)
        self._wakeups = Wakeups(self._notify)
        self._transactions = TransactionManager(s, self._engine, self._wakeups)
        self.scheduler = Scheduler(self._transactions, self._aside)
        self.maintenance = Maintenance(s, self._aside, self.membership.may_judge)
        self.reports.is_busy = lambda: bool(self.runner.running)
        metrics.RUNNING.set_function(lambda: len(self.runner.running))
        loops: list[Coroutine[Any, Any, None]] = [
            self.membership.run(), self.reports.run(), self.claimer.run(), self.maintenance.loop().run(), self._enforce(),
            self.scheduler.loop().run(), self.admitter.loop().run(), self.dependents.run(),
            ProgressNotes(self._aside, self.runner).run(),
        ]  # fmt: skip
        self._loops = [
            asyncio.create_task(loop, name=getattr(loop, "__qualname__", "loop")) for loop in loops
        ]
        log.info(
            "worker_started",
            queues=s.worker_queues,
            concurrency=s.worker_concurrency,
            handlers=self.handlers.names(),
        )

    def _context_of(self, claim: Claim, worker_id: UUID) -> RunContext:
        return RunContext(claim, worker_id, self._for_handlers)

    # -- its connections
    # ------------------------------------------------------------------------------------------
    async def _own_connection(self) -> asyncpg.Connection:
        """What the membership beats on, and hears what is meant for this worker."""
        connection = await connect(self.settings, command_timeout=self.settings.heartbeat_seconds)
        if not self.settings.database_pooler:
            await listen(connection, WORKER_CHANNEL, self._called)
        return connection

    async def _claims_connection(self) -> asyncpg.Connection:
        """It hears of tasks and claims them: the process of the server that tells of one is awake
        when asked for it.
        """
        connection = await self._reports_connection()
        if not self.settings.database_pooler:
            await listen(connection, QUEUE_CHANNEL, self._told)
        return connection

    async def _reports_connection(self) -> asyncpg.Connection:
        return await connect(self.settings, LOOK_UPS, command_timeout=self.settings.lease_seconds)

    def _called(self, worker_id: str) -> None:
        if worker_id == str(self.membership.worker_id):
            self.membership.wake.set()

    def _told(self, queue: str) -> None:
        if queue in self.settings.worker_queues:
            self.claimer.wake.set()
        elif queue == LIMITS:
            self.admitter.request()

    def why_not_alive(self) -> str | None:
        """Which loop has ended before its time, for the liveness probe; None: all go on."""
        ended = [loop.get_name() for loop in self._loops if loop.done()]
        return f"ended: {', '.join(ended)}" if ended and not self.claimer.stopped else None

    async def _notify(self, queues: list[str]) -> None:
        async with self._aside() as connection:
            await connection.execute(statement("notify_queues"), queues)

    async def _enforce(self) -> None:
        while True:
            await asyncio.sleep(ENFORCE_SECONDS)
            self.runner.enforce()
            self._end_when_unheard()

    def _end_when_unheard(self) -> None:
        """End a process whose heartbeats arrive and whose results do not: while it lives, nobody
        else has its tasks.

        So it goes when a handler closed sockets of the worker's: their numbers are given out again,
        and the loop may no longer hear of the new ones.
        """
        seconds = self.reports.silent_seconds()
        if seconds > UNHEARD_LEASES * self.settings.lease_seconds and self.membership.may_judge():
            log.critical(
                "results_do_not_arrive",
                seconds=round(seconds, 1),
                results=len(self.reports.attempts()),
            )
            logging.shutdown()
            os._exit(EXIT_CODE)

    # -- what the membership tells
    # ------------------------------------------------------------------------------
    def lost_lease(self) -> None:
        """Drop every claim and run."""
        self.claimer.drop()
        self.runner.abandon()

    def registered(self) -> None:
        """The lease holds (again): look for work at once, whatever came before we listened."""
        self.claimer.wake.set()
        self.admitter.request()

    def cancel(self, task_id: UUID) -> None:
        """Interrupt a task that a person cancelled."""
        self.runner.cancel(task_id)

    def drained(self, reason: str | None) -> None:
        """Claim no more; what runs may finish."""
        if not self.claimer.stopped:
            log.info("worker_drains", reason=reason)
            self.claimer.stop()

    # -- what the process tells
    # ---------------------------------------------------------------------------------
    async def stop(self) -> None:
        """Claim no more, let handlers finish for `shutdown_seconds`, give the rest back, report
        everything, leave.
        """
        self.claimer.stop()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.runner.until_idle(), self.settings.shutdown_seconds)
        await self.runner.give_back(Reason.SHUTDOWN)
        try:
            async with asyncio.timeout(LEAVE_SECONDS):
                await self.reports.flushed()
                await self.dependents.flush()
                await self._end_loops()
                await self.membership.leave()
        except Exception as error:  # noqa: BLE001 - the lease gives back what we could not
            log.warning("leaving_without_goodbye", error=repr(error))
        await self._end_loops()
        self._watchdog.stop()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LEAVE_SECONDS):
                await self._wakeups.close()
                if isinstance(self._transactions.cache, Cache):  # the daily loader has told it
                    await self._transactions.cache.link.close()
                await self._engine.dispose()
        for end in self._ends:
            end()

    async def _end_loops(self) -> None:
        for loop in self._loops:
            loop.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)

    # -- what /status shows
    # -------------------------------------------------------------------------------------
    @property
    def instance_id(self) -> UUID | None:
        """This worker's id; None while it is not registered."""
        return self.membership.worker_id

    @property
    def current_task_ids(self) -> list[UUID]:
        """The tasks that run here now."""
        return [
            run.claim.task_id for run in sorted(self.runner.running, key=lambda run: run.started)
        ]

    @property
    def completed(self) -> int:
        """Tasks completed since the start."""
        return self.runner.counts["completed"]

    @property
    def failed(self) -> int:
        """Tasks failed since the start."""
        return self.runner.counts["failed"]


def leave_threads_behind() -> None:
    """End this process, in which all is reported and closed, if threads are left that it would wait
    for at its exit.
    """
    left = [
        thread.name
        for thread in threading.enumerate()
        if not thread.daemon and thread is not threading.main_thread()
    ]
    if left:
        log.info("threads_left_behind", threads=left)
        logging.shutdown()
        os._exit(0)
