"""The processes: API, worker, or both, each with its management port, from start to a graceful end.

SIGTERM: the API says `Connection: close` for `drain_seconds` and then stops listening; the worker
claims no more and lets its handlers finish. The management port answers until the very end.
"""

import asyncio
import contextlib
import gc
import os
import select
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from typing import Any

import structlog
import uvicorn
from fastapi import FastAPI
from sqlalchemy.ext.asyncio import AsyncEngine
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from task_service.api.app import create_app
from task_service.api.http.sse import ABORT
from task_service.api.management import create_management_app
from task_service.loops import loop
from task_service.loops.admitter import Admitter
from task_service.loops.maintenance import Maintenance
from task_service.loops.scheduler import Scheduler
from task_service.queue.statements import statement
from task_service.queue.wakeups import Wakeups
from task_service.settings import Settings
from task_service.store.database import acquire_from, create_engine, raw
from task_service.telemetry.tracing import start_tracing
from task_service.worker.process import Worker

KEEP_ALIVE_SECONDS = 75
CLOSING_ROUNDS, CLOSING_PAUSE_SECONDS = 100, 0.01
SAME_SIGNAL_SECONDS = 0.5
GARBAGE_EVERY = 10_000
"""Objects made and not freed, between two looks for garbage (Python's own: 700 or 2,000)."""
HOLD_SIGNALS_SECONDS = 0.25
log = structlog.get_logger(__name__)


class Listening(uvicorn.Server):
    """uvicorn without its own signal handlers: this module decides when it ends. `listening` is set
    when it does.
    """

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Open the port and say so."""
        await super().startup(sockets)
        self.listening.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer what has arrived, close connections only when nothing has, then do as uvicorn
        does.

        uvicorn closes a kept-alive connection also when a request for it lies unread in the kernel:
        the client is then reset. Here that request is read and answered first, with `Connection:
        close`.
        """
        for _ in range(CLOSING_ROUNDS):
            unread = [
                connection
                for connection in self.server_state.connections
                if not _closed_if_idle(connection)
            ]
            if not unread:
                break
            await asyncio.sleep(CLOSING_PAUSE_SECONDS)
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to `serve`."""
        yield


class Connection(AutoHTTPProtocol):  # type: ignore[misc,valid-type] # whichever of uvicorn's two there is
    """A client's connection that an application may cut off: closing waits until the client has
    taken everything.
    """

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self.scope["extensions"] = {ABORT: self.transport.abort}


def _closed_if_idle(connection: Any) -> bool:
    """Close a connection after its present answer, or now, unless something has arrived on it that
    was not read yet.
    """
    if connection.transport.is_closing():
        return True
    poll = select.poll()
    poll.register(connection.transport.get_extra_info("socket").fileno(), select.POLLIN)
    if poll.poll(0):
        return False
    connection.shutdown()
    return True


def _listening(
    app: FastAPI, address: tuple[str, int], shutdown_seconds: float, proxies: Sequence[str] = ()
) -> Listening:
    """A server that is not started. `proxies` are believed when they say for whom they ask."""
    host, port = address
    config = uvicorn.Config(
        app, host=host, port=port, http=Connection, lifespan="off", log_config=None, access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS, timeout_graceful_shutdown=int(shutdown_seconds) or 1,
        proxy_headers=bool(proxies), forwarded_allow_ips=list(proxies),
    )  # fmt: skip
    return Listening(config)


async def serve(
    settings: Settings, *, api: bool, worker: bool, started: asyncio.Event | None = None
) -> None:
    """Run until SIGTERM or SIGINT; a second signal ends at once. OSError when a port is in use."""
    tracing = start_tracing(settings)
    engine = create_engine(settings)
    wakeups = Wakeups(lambda queues: _notify(engine, queues))
    running = Worker(settings) if worker else None
    management = create_management_app(
        settings, engine, running.why_not_alive if running else None, figures=api
    )
    servers = {
        _listening(management, (settings.management_host, settings.management_port), 1): management
    }
    public = None
    if api:
        app = _create_api(settings, engine, wakeups, running)
        address = (settings.host, settings.port)
        public = _listening(app, address, settings.shutdown_seconds, settings.trusted_proxies)
        servers[public] = app
        management.state.why_not_ready = app.state.first_admin.why_not_done
    if tracing is not None:
        tracing.observe(engine, servers[public] if public else None)
    stop = _stop_signal()
    tasks = {server: asyncio.create_task(server.serve()) for server in servers}
    if running is not None:
        await running.start()
    if public is not None:
        await loop.start_all(servers[public].state.background)
    if started is not None:
        await asyncio.gather(*(server.listening.wait() for server in servers))
        started.set()
    _collect_only_what_comes()
    ended = asyncio.create_task(stop.wait())
    await asyncio.wait([ended, *tasks.values()], return_when=asyncio.FIRST_COMPLETED)
    log.info("stopping", drain_seconds=settings.drain_seconds if api else 0)
    for app in servers.values():
        app.state.draining = True
    await asyncio.gather(
        _stop_api(settings, public, tasks[public], servers[public]) if public else asyncio.sleep(0),
        running.stop() if running else asyncio.sleep(0),
    )
    await wakeups.close()
    for server, task in tasks.items():
        server.should_exit = True
        await task
    await engine.dispose()
    if tracing is not None:
        await tracing.stop()
    log.info("stopped")


def _create_api(
    settings: Settings, engine: AsyncEngine, wakeups: Wakeups, worker: Worker | None
) -> FastAPI:
    app = create_app(settings, engine, wakeups, worker=worker)
    if worker is None:
        # Somebody must do these also while workers are scaled to none.
        acquire = acquire_from(engine)
        maintenance, admitter = (
            Maintenance(settings, acquire),
            Admitter(acquire, settings.poll_seconds),
        )
        scheduler = Scheduler(app.state.transactions, acquire)
        app.state.background += [one.loop() for one in (scheduler, maintenance, admitter)]
    return app


def _collect_only_what_comes() -> None:
    """Begin to collect garbage, and never look through what there is now: it lives as long as the
    process.

    A full collection would look through all of it, 50 ms in which requests wait. A worker that
    drains its queue holds hundreds of tasks, none of them garbage: to look for some every 700
    objects takes a quarter of its time.
    """
    gc.freeze()
    gc.set_threshold(GARBAGE_EVERY)
    gc.enable()


async def _stop_api(
    settings: Settings, server: Listening, task: "asyncio.Task[None]", app: FastAPI
) -> None:
    if not task.done():
        await asyncio.sleep(settings.drain_seconds)
    await loop.stop_all(
        app.state.background
    )  # before the server: it waits for streams of events, which this ends
    server.should_exit = True
    await task
    await app.state.connections.stop()  # requests of the last moments may have opened them again


async def _notify(engine: AsyncEngine, queues: list[str]) -> None:
    async with engine.begin() as connection:
        await (await raw(connection)).execute(statement("notify_queues"), queues)


def _stop_signal() -> asyncio.Event:
    stop = asyncio.Event()
    asked_at = 0.0

    def on_signal() -> None:
        nonlocal asked_at
        if not stop.is_set():
            asked_at = time.monotonic()
        elif (
            time.monotonic() - asked_at > SAME_SIGNAL_SECONDS
        ):  # else: a group's signal that make passed on, too
            os._exit(130)  # asked twice: leave now; the lease gives back what is held
        stop.set()

    loop = asyncio.get_running_loop()

    def take() -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, on_signal)

    def hold() -> None:
        """Take them again and again: a coroutine of a task's handler may have taken them from us."""
        loop.call_later(HOLD_SIGNALS_SECONDS, hold)
        take()
        signal.set_wakeup_fd(wakeup)

    take()
    wakeup = signal.set_wakeup_fd(-1)
    hold()
    return stop
