"""Stream of events for one client.

A new stream reads pages from the database itself until it reaches the position of the process's
reader; from then on it is live, and the reader delivers new events to it. A live stream whose
client is too slow falls back to reading pages. So a stream uses bounded memory, and loses or
repeats no event, however long its client was away: the position is all of its state.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from task_service.store.database import is_unavailable
from task_service.store.events import Page, Position, TaskEvent

WAITING_MAX = 1000
"""Events that wait for one client before its stream falls behind."""
UNAVAILABLE_PAUSE_SECONDS = 1.0
"""Pause after the database could not be reached."""


@dataclass(frozen=True, slots=True)
class RenderedEvent:
    """An event and its text, which all streams share."""

    event: TaskEvent
    text: bytes


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Conditions that must all hold; an empty one matches everything.

    A deleted task has no queue and no handler, and its events match any.
    """

    task_ids: frozenset[UUID] = frozenset()
    names: frozenset[str] = frozenset()
    statuses: frozenset[str] = frozenset()
    queue: str | None = None
    handler: str | None = None

    def matches(self, e: TaskEvent) -> bool:
        """Return whether the event fulfils all conditions."""
        return (
            (not self.task_ids or e.task_id in self.task_ids)
            and (not self.names or e.name in self.names)
            and (not self.statuses or e.status in self.statuses)
            and (self.queue is None or e.queue in (self.queue, None))
            and (self.handler is None or e.handler == self.handler or e.queue is None)
        )


class StreamSource(Protocol):
    """The operations of the broadcaster that a stream uses."""

    async def page(self, after: Position, task_ids: frozenset[UUID]) -> Page:
        """Read the next page for a stream that is behind."""
        ...

    def render(self, event: TaskEvent) -> RenderedEvent:
        """Render an event for clients."""
        ...

    def join(self, stream: "Stream", reached: Position) -> bool:
        """Deliver new events to the stream if it has reached the reader's position."""
        ...

    def leave(self, stream: "Stream") -> None:
        """Stop delivering events to the stream."""
        ...

    def remove(self, stream: "Stream") -> None:
        """Forget a closed stream."""
        ...


class Stream:
    """Events for one client: call `take` repeatedly, then `close`. `position` is after the last
    event taken.
    """

    def __init__(self, source: StreamSource, wanted: EventFilter) -> None:
        self.position = self._reached = Position(0)
        self._was_reset = False
        self._is_live = False
        self._source, self._filter = source, wanted
        self._waiting: deque[RenderedEvent] = deque()
        self._changed = asyncio.Event()

    async def begin(self, position: Position) -> None:
        """Start after a position, and read the first page. Raises the database's errors."""
        self.position = self._reached = position
        await self._catch_up()

    async def take(self, seconds: float) -> list[RenderedEvent]:
        """Return the next events in order; an empty list after `seconds`, or when the stream was
        woken.
        """
        if not self._is_live and not self._waiting:
            try:
                await self._catch_up()
            except Exception as error:
                if not is_unavailable(error):
                    raise
                await self._pause(min(seconds, UNAVAILABLE_PAUSE_SECONDS))
        if self._is_live and not self._waiting:
            await self._pause(seconds)
        events = list(self._waiting)
        self._waiting.clear()
        self._changed.clear()
        self.position = self._reached
        return events

    def take_reset(self) -> bool:
        """Return whether the stream was reset since the last call.

        It is reset when the database does not know the position; the events then start at the
        current position.
        """
        was_reset, self._was_reset = self._was_reset, False
        return was_reset

    def offer(self, events: Sequence[RenderedEvent], reached: Position) -> None:
        """Accept new events from the reader, up to a position; fall behind when too many are
        waiting.
        """
        if len(self._waiting) + len(events) > WAITING_MAX and self._waiting:
            self._is_live = False
            self._source.leave(self)
        else:
            self._append(events, reached)

    def reset(self, reached: Position) -> None:
        """Continue at this position: the database was restored or crashed, so waiting events never
        happened.
        """
        self._was_reset = True
        self._waiting.clear()
        self._reached = reached
        self._changed.set()

    def wake(self) -> None:
        """Let `take` return."""
        self._changed.set()

    def close(self) -> None:
        """End the stream after its client has disconnected."""
        self._is_live = False
        self._source.remove(self)

    async def _catch_up(self) -> None:
        """Read one page; become live if it was the last one."""
        page = await self._source.page(self._reached, self._filter.task_ids)
        if page.is_back:
            self.reset(page.reached)
        events = [self._source.render(e) for e in page.events if self._filter.matches(e)]
        self._append(events, page.reached)
        self._is_live = page.is_last and self._source.join(self, page.reached)

    def _append(self, events: Sequence[RenderedEvent], reached: Position) -> None:
        self._waiting.extend(
            e for e in events if e.event.position > self._reached and self._filter.matches(e.event)
        )
        self._reached = max(self._reached, reached)
        if self._waiting:
            self._changed.set()

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), seconds)
