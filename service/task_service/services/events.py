"""Streams of events: one reader of the database for all streams of a process, and a place in the order for each.

A stream begins behind: it reads pages by itself until it has come to where the reader is, and from then on the reader
hands it what is new. One that takes too slowly falls behind again. So a stream costs a bounded memory, misses nothing
and sees nothing twice, however long its client was away: a position says all there is to know about it.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import asyncpg
import structlog

from task_service.domain.errors import UnavailableError
from task_service.queue.wakeups import QUEUE_CHANNEL
from task_service.services.context import Context
from task_service.store.database import connect, is_unavailable, raw
from task_service.store.events import Page, Position, TaskEvent, read_events, read_horizon
from task_service.telemetry.metrics import EVENT_LAG_SECONDS, EVENT_STREAMS

PAGE = 500
WAITING_MAX = 1000
"""Events that wait for one client, before its stream falls behind."""
PAUSE_SECONDS = 0.05
"""Between two looks while there is much to see."""
AWAY_SECONDS = 1.0
BOUND_SECONDS = 10.0
CATCHING_UP_AT_ONCE = 2
"""Pages that streams of one process read at the same time, so that requests keep their connections."""
log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Told:
    """An event as its stream's clients get it: made once for all of them."""

    event: TaskEvent
    text: bytes


@dataclass(frozen=True, slots=True)
class Wanted:
    """Conditions that all hold; empty: any. A deleted task has neither queue nor handler, and passes for both."""

    task_ids: frozenset[UUID] = frozenset()
    names: frozenset[str] = frozenset()
    statuses: frozenset[str] = frozenset()
    queue: str | None = None
    handler: str | None = None

    def __call__(self, e: TaskEvent) -> bool:
        """Whether the event is one of those."""
        return (
            (not self.task_ids or e.task_id in self.task_ids)
            and (not self.names or e.name in self.names)
            and (not self.statuses or e.status in self.statuses)
            and (self.queue is None or e.queue in (self.queue, None))
            and (self.handler is None or e.handler == self.handler or e.queue is None)
        )


class Stream:
    """What one client is told: `take` again and again, and `close`. `position` is behind all that was taken."""

    def __init__(self, events: "Events", wanted: Wanted) -> None:
        self.position = self._reached = Position(0)
        self._is_back = False
        self._is_live = False
        self._events, self._wanted = events, wanted
        self._waiting: deque[Told] = deque()
        self._news = asyncio.Event()

    async def begin(self, position: Position) -> None:
        """Go to a position, and read the first page behind it. Raises the database's errors."""
        self.position = self._reached = position
        await self._catch_up()

    async def take(self, seconds: float) -> list[Told]:
        """The next events, in their order; none when the time is over, or the stream was woken."""
        if not self._is_live and not self._waiting:
            try:
                await self._catch_up()
            except Exception as error:
                if not is_unavailable(error):
                    raise
                await self._pause(min(seconds, AWAY_SECONDS))
        if self._is_live and not self._waiting:
            await self._pause(seconds)
        told = list(self._waiting)
        self._waiting.clear()
        self._news.clear()
        self.position = self._reached
        return told

    def went_back(self) -> bool:
        """Whether the database knew nothing of the position, and what `take` gave begins with now. Says it once."""
        is_back, self._is_back = self._is_back, False
        return is_back

    def offer(self, news: Sequence[Told], reached: Position) -> None:
        """Take what is new from the reader, up to a position; fall behind when too much waits already."""
        if len(self._waiting) + len(news) > WAITING_MAX and self._waiting:
            self._is_live = False
            self._events.leave(self)
        else:
            self._hold(news, reached)

    def restart(self, reached: Position) -> None:
        """The database went back: what was waiting has not happened, and the stream goes on from this position."""
        self._is_back = True
        self._waiting.clear()
        self._reached = reached
        self._news.set()

    def wake(self) -> None:
        """Let `take` return."""
        self._news.set()

    def close(self) -> None:
        """The client is gone."""
        self._is_live = False
        self._events.forget(self)

    async def _catch_up(self) -> None:
        """Read a page; the stream is live from then on when it was the last one."""
        page = await self._events.page(self._reached, self._wanted.task_ids)
        if page.is_back:
            self.restart(page.reached)
        self._hold(
            [self._events.tell(event) for event in page.events if self._wanted(event)], page.reached
        )
        self._is_live = page.is_last and self._events.join(self, page.reached)

    def _hold(self, news: Sequence[Told], reached: Position) -> None:
        self._waiting.extend(
            t for t in news if t.event.position > self._reached and self._wanted(t.event)
        )
        self._reached = max(self._reached, reached)
        if self._waiting:
            self._news.set()

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._news.wait(), seconds)


class Events:
    """The streams of a process and their reader, which looks only while some stream is live. Starts and stops with it.

    Changes by way of this process wake the reader, and where it can it listens to what wakes workers; a look every
    EVENT_POLL_SECONDS bounds what that misses.
    """

    def __init__(self, context: Context, write: Callable[[TaskEvent], bytes]) -> None:
        self.closed = asyncio.Event()
        self._context, self._settings, self._write = context, context.settings, write
        self._streams: set[Stream] = set()
        self._live: set[Stream] = set()
        self._position = Position(0)
        self._somebody, self._woken, self._soon = asyncio.Event(), asyncio.Event(), False
        self._readers = asyncio.Semaphore(CATCHING_UP_AT_ONCE)
        self._connection: asyncpg.Connection | None = None
        self._loop: asyncio.Task[None] | None = None
        context.on_commit.append(self._wake)

    async def start(self) -> None:
        """Begin; nothing is connected before the first stream."""
        self._loop = asyncio.create_task(self._run(), name="events")

    async def stop(self) -> None:
        """End all streams, and take no more."""
        self.closed.set()
        for stream in self._streams:
            stream.wake()
        if self._loop is not None:
            self._loop.cancel()
            await asyncio.gather(self._loop, return_exceptions=True)
        self._hang_up()

    async def open(self, wanted: Wanted, after: Position | None) -> Stream:
        """A stream of what comes after a position; None: from now. Raises UnavailableError, the database's errors."""
        if self.closed.is_set():
            raise UnavailableError("This process is about to stop; connect again.")
        if len(self._streams) >= self._settings.event_streams_max:
            raise UnavailableError("As many streams are open here as may be; try again later.")
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
        """Read the next events of a stream that is behind."""
        async with self._readers, self._context.reading() as connection:
            plain = await raw(connection)
            return await read_events(plain, after, await read_horizon(plain), PAGE, task_ids)

    async def _now(self) -> Position:
        async with self._context.reading() as connection:
            return Position((await read_horizon(await raw(connection))).oldest)

    def tell(self, event: TaskEvent) -> Told:
        """The event as clients get it."""
        return Told(event, self._write(event))

    def join(self, stream: Stream, reached: Position) -> bool:
        """Hand this stream what comes from now on, if it has come as far as the reader."""
        if not self._live:
            self._position = reached
        elif reached < self._position:
            return False
        self._live.add(stream)
        self._somebody.set()
        return True

    def leave(self, stream: Stream) -> None:
        """Hand it no more."""
        self._live.discard(stream)
        if not self._live:
            self._somebody.clear()

    def forget(self, stream: Stream) -> None:
        """It is closed."""
        self.leave(stream)
        self._streams.discard(stream)
        EVENT_STREAMS.set(len(self._streams))

    async def _run(self) -> None:
        while True:
            if not self._somebody.is_set():
                self._hang_up()
                EVENT_LAG_SECONDS.set(0)
                await self._somebody.wait()
            after = self._position
            try:
                async with asyncio.timeout(BOUND_SECONDS):
                    page = await self._look(after)
            except Exception as error:
                log.warning(
                    "events_not_read", error=repr(error), exc_info=not is_unavailable(error)
                )
                self._hang_up()
                await asyncio.sleep(AWAY_SECONDS)
            else:
                if self._position == after:  # else everybody left, and who came begins elsewhere
                    self._hand_out(page)
                if page.is_last:
                    await self._pause()

    async def _look(self, after: Position) -> Page:
        if self._connection is None or self._connection.is_closed():
            self._connection = await self._connect()
        self._woken.clear()
        horizon = await read_horizon(self._connection)
        EVENT_LAG_SECONDS.set(horizon.held_seconds)
        page = await read_events(self._connection, after, horizon, PAGE)
        self._soon = bool(page.events) or horizon.held_seconds > 0
        return page

    def _hand_out(self, page: Page) -> None:
        if page.is_back:
            log.warning(
                "events_went_back",
                meaning="the database was restored or crashed; clients are told to reset",
            )
        news = [self.tell(event) for event in page.events]
        self._position = page.reached
        for stream in list(self._live):
            if page.is_back:
                stream.restart(page.reached)
            stream.offer(news, page.reached)

    async def _pause(self) -> None:
        """A moment while there is something to come, else until woken, or in time."""
        with contextlib.suppress(TimeoutError):
            if self._soon:
                await asyncio.sleep(PAUSE_SECONDS)
            else:
                await asyncio.wait_for(self._woken.wait(), self._settings.event_poll_seconds)

    async def _connect(self) -> asyncpg.Connection:
        connection = await connect(self._settings, command_timeout=BOUND_SECONDS)
        if not self._settings.database_pooler:
            await connection.add_listener(QUEUE_CHANNEL, self._wake)
            connection.add_termination_listener(self._wake)
        return connection

    def _wake(self, *_: Any) -> None:
        self._woken.set()

    def _hang_up(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()
