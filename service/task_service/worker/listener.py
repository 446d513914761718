"""Being woken: one connection that listens. Behind a transaction pooler there is none, and the poll does it alone."""

import asyncio
from collections.abc import Callable
from typing import Any
from uuid import UUID

import asyncpg
import structlog

from task_service.queue.wakeups import LIMITS, QUEUE_CHANNEL

WORKER_CHANNEL = "task_service_worker"
RETRY_SECONDS = 1.0
log = structlog.get_logger(__name__)


class Listener:
    """Calls `on_queue` when one of `queues` has work, `on_worker` when a message is for this worker's id.

    `on_limits` when something waits to be admitted.
    """

    def __init__(
        self,
        connect: Callable[[], Any],
        queues: frozenset[str],
        on_queue: Callable[[], None],
        on_worker: Callable[[], None],
        on_limits: Callable[[], None],
    ) -> None:
        self._connect, self._queues = connect, queues
        self._on_queue, self._on_worker, self._on_limits = on_queue, on_worker, on_limits
        self.worker_id: Callable[[], UUID | None] = lambda: None

    async def run(self) -> None:
        """Listen until cancelled, connecting anew as often as it takes."""
        while True:
            connection: asyncpg.Connection | None = None
            try:
                connection = await self._connect()
                ended = asyncio.Event()
                connection.add_termination_listener(lambda _, ended=ended: ended.set())
                await connection.add_listener(QUEUE_CHANNEL, self._queue)
                await connection.add_listener(WORKER_CHANNEL, self._worker)
                self._on_queue()  # something may have come before we listened
                self._on_limits()
                await ended.wait()
            except Exception as error:  # noqa: BLE001 - logged with its kind; the poll goes on meanwhile
                log.warning("listener_failed", error=repr(error))
            finally:
                if connection is not None:
                    connection.terminate()
            await asyncio.sleep(RETRY_SECONDS)

    def _queue(self, _connection: Any, _pid: int, _channel: str, payload: object) -> None:
        if payload in self._queues:
            self._on_queue()
        elif payload == LIMITS:
            self._on_limits()

    def _worker(self, _connection: Any, _pid: int, _channel: str, payload: object) -> None:
        if payload == str(self.worker_id()):
            self._on_worker()
