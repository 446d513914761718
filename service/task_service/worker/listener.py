"""Being woken. Behind a transaction pooler nothing listens, and the poll does it alone."""

from collections.abc import Callable
from typing import Any
from uuid import UUID

import asyncpg

from task_service.queue.wakeups import LIMITS, QUEUE_CHANNEL

WORKER_CHANNEL = "task_service_worker"


class Listener:
    """Calls `on_queue` when one of `queues` has work, `on_worker` when a message is for this worker's id.

    `on_limits` when something waits to be admitted, `on_end` when a connection has ended.
    """

    def __init__(
        self,
        queues: frozenset[str],
        on_queue: Callable[[], None],
        on_worker: Callable[[], None],
        on_limits: Callable[[], None],
        on_end: Callable[[Any], None],
    ) -> None:
        self._queues = queues
        self._on_queue, self._on_worker, self._on_limits, self._on_end = on_queue, on_worker, on_limits, on_end
        self.worker_id: Callable[[], UUID | None] = lambda: None

    async def listen(self, connection: asyncpg.Connection) -> None:
        """Listen as long as the connection lives; what came before is not told. It is ended when that fails."""
        connection.add_termination_listener(self._on_end)
        try:
            await connection.add_listener(QUEUE_CHANNEL, self._queue)
            await connection.add_listener(WORKER_CHANNEL, self._worker)
        except BaseException:
            connection.terminate()
            raise

    def _queue(self, _connection: Any, _pid: int, _channel: str, payload: object) -> None:
        if payload in self._queues:
            self._on_queue()
        elif payload == LIMITS:
            self._on_limits()

    def _worker(self, _connection: Any, _pid: int, _channel: str, payload: object) -> None:
        if payload == str(self.worker_id()):
            self._on_worker()
