"""Broadcaster: one reader of events per process, which delivers them to the live streams."""

import asyncio
from collections.abc import Callable
from typing import Any
from uuid import UUID

import asyncpg
import structlog

from task_service.domain.errors import UnavailableError
from task_service.queue.wakeups import QUEUE_CHANNEL
from task_service.services.events.streams import EventFilter, RenderedEvent, Stream
from task_service.services.transactions import TransactionManager
from task_service.store.database import connect, raw
from task_service.store.events import Page, Position, TaskEvent, read_events, read_horizon
from task_service.telemetry.metrics import EVENT_LAG_SECONDS, EVENT_STREAMS

PAGE = 500
BUSY_PAUSE_SECONDS = 0.05
"""Pause between two reads while events keep coming."""
READ_TIMEOUT_SECONDS = 10.0
CATCHING_UP_MAX = 2
"""Pages that streams read at the same time, so that requests keep their connections."""
log = structlog.get_logger(__name__)


class Broadcaster:
    """The streams of a process and the loop that reads for them while at least one stream is live.

    Changes by this process wake the loop. It also listens for the notifications that wake
    workers, except behind a transaction pooler. A poll every EVENT_POLL_SECONDS bounds the
    delay of events that neither announces.
    """

    def __init__(
        self, transactions: TransactionManager, write: Callable[[TaskEvent], bytes]
    ) -> None:
        self.closed = asyncio.Event()
        self._transactions, self._settings = transactions, transactions.settings
        self._write = write
        self._streams: set[Stream] = set()
        self._live: set[Stream] = set()
        self._position = Position(0)
        self.wake = asyncio.Event()
        self._has_live, self._is_busy = asyncio.Event(), False
        self._readers = asyncio.Semaphore(CATCHING_UP_MAX)
        self._connection: asyncpg.Connection | None = None
        transactions.on_commit.append(self._notified)

    async def start(self) -> None:
        """Do nothing: the loop that calls `once` starts by itself."""

    async def stop(self) -> None:
        """End all streams and refuse new ones."""
        self.closed.set()
        for stream in self._streams:
            stream.wake()
        self._disconnect()

    async def open(self, wanted: EventFilter, after: Position | None) -> Stream:
        """Open a stream after a position; None: from now.

        Raises UnavailableError and the database's errors.
        """
        if self.closed.is_set():
            raise UnavailableError("This process is about to stop; connect again.")
        if len(self._streams) >= self._settings.event_streams_max:
            raise UnavailableError("Too many event streams are open in this process; retry later.")
        stream = Stream(self, wanted)
        self._streams.add(stream)
        EVENT_STREAMS.set(len(self._streams))
        try:
            await stream.begin(after or await self._now())
        except BaseException:
            stream.close()
            raise
        return stream

    async def page(self, after: Position, task_ids: frozenset[UUID]) -> Page:
        """Read the next page for a stream that is behind."""
        async with self._readers, self._transactions.read() as connection:
            driver = await raw(connection)
            return await read_events(driver, after, await read_horizon(driver), PAGE, task_ids)

    async def _now(self) -> Position:
        async with self._transactions.read() as connection:
            return Position((await read_horizon(await raw(connection))).oldest)

    def render(self, event: TaskEvent) -> RenderedEvent:
        """Render an event for clients."""
        return RenderedEvent(event, self._write(event))

    def join(self, stream: Stream, reached: Position) -> bool:
        """Deliver new events to the stream if it has reached the reader's position."""
        if not self._live:
            self._position = reached
        elif reached < self._position:
            return False
        self._live.add(stream)
        self._has_live.set()
        return True

    def leave(self, stream: Stream) -> None:
        """Stop delivering events to the stream."""
        self._live.discard(stream)
        if not self._live:
            self._has_live.clear()

    def remove(self, stream: Stream) -> None:
        """Forget a closed stream."""
        self.leave(stream)
        self._streams.discard(stream)
        EVENT_STREAMS.set(len(self._streams))

    async def once(self) -> float | None:
        """Wait for a live stream, then read and deliver a page.

        Returns the seconds until the next call, or None for the next poll or notification.
        """
        if not self._has_live.is_set():
            self._disconnect()
            EVENT_LAG_SECONDS.set(0)
            await self._has_live.wait()
        after = self._position
        try:
            async with asyncio.timeout(READ_TIMEOUT_SECONDS):
                page = await self._read(after)
        except Exception:
            self._disconnect()
            raise
        # The position differs when all streams left meanwhile and a new one started elsewhere.
        if self._position == after:
            self._deliver(page)
        if not page.is_last:
            return 0.0
        if self._is_busy:
            await asyncio.sleep(BUSY_PAUSE_SECONDS)
            return 0.0
        return None

    async def _read(self, after: Position) -> Page:
        if self._connection is None or self._connection.is_closed():
            self._connection = await self._connect()
        self.wake.clear()
        horizon = await read_horizon(self._connection)
        EVENT_LAG_SECONDS.set(horizon.held_seconds)
        page = await read_events(self._connection, after, horizon, PAGE)
        self._is_busy = bool(page.events) or horizon.held_seconds > 0
        return page

    def _deliver(self, page: Page) -> None:
        if page.is_back:
            log.warning(
                "events_went_back",
                meaning="the database was restored or crashed; clients are told to reset",
            )
        events = [self.render(event) for event in page.events]
        self._position = page.reached
        for stream in list(self._live):
            if page.is_back:
                stream.reset(page.reached)
            stream.offer(events, page.reached)

    async def _connect(self) -> asyncpg.Connection:
        connection = await connect(self._settings, command_timeout=READ_TIMEOUT_SECONDS)
        if not self._settings.database_pooler:
            await connection.add_listener(QUEUE_CHANNEL, self._notified)
            connection.add_termination_listener(self._notified)
        return connection

    def _notified(self, *_: Any) -> None:
        self.wake.set()

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()
