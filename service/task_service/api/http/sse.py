"""Server-Sent Events: responses that last until one side closes them."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Annotated

import structlog
from fastapi import Depends, Request, Response
from starlette.types import Receive, Scope, Send

from task_service.api.answers import to_json
from task_service.domain.errors import DomainError
from task_service.domain.permissions import Permission
from task_service.services.events.broadcaster import Broadcaster
from task_service.services.events.streams import Stream
from task_service.store.database import is_unavailable
from task_service.store.events import TaskEvent

MEDIA_TYPE = "text/event-stream"
RETRY_MS = 2000
"""Delay after which clients reconnect."""
BEAT_SECONDS = 10.0
"""Interval of the keep-alive comments and of the check that the client may still read."""
SEND_SECONDS = 20.0
"""Time after which a client that reads nothing is disconnected."""
FAREWELL_SECONDS = 1.0
ABORT = "task_service.abort"
"""Extension of a request's scope: a function that aborts the connection."""
RESET = (
    b"id: %b\nevent: reset\n"
    b'data: {"event":"reset","reason":"Unknown last event id: read all tasks again."}\n\n'
)
MayRead = Callable[[], Awaitable[None]]
log = structlog.get_logger(__name__)


def write_event(e: TaskEvent) -> bytes:
    """Format an event as a block of the stream."""
    data = {
        "event": e.name,
        "task_id": e.task_id,
        "at": e.at,
        "previous_status": e.previous_status,
        "status": e.status,
        "by": e.by,
        "reason": e.reason,
        "fields": e.fields,
        "attempt": e.attempt,
        "queue": e.queue,
        "handler": e.handler,
    }
    return b"id: %b\nevent: %b\ndata: %b\n\n" % (
        str(e.position).encode(),
        e.name.encode(),
        to_json(data),
    )


class EventStream(Response):
    """A stream of events.

    It ends when the client disconnects, is too slow or loses the permission to read, and when the
    process stops.
    """

    media_type = MEDIA_TYPE

    def __init__(
        self, events: Broadcaster, stream: Stream, may_read: MayRead, last: str | None = None
    ) -> None:
        """Prepare a stream.

        `may_read` raises a DomainError once the client has lost the permission. The stream ends
        after an event named `last`.
        """
        super().__init__(None, headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._events, self._stream, self._may_read, self._last = events, stream, may_read, last

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send events until one side ends the stream."""
        sending = asyncio.create_task(self._send_all(send))
        ends = [asyncio.create_task(_gone(receive)), asyncio.create_task(self._stopped())]
        try:
            await asyncio.wait([sending, *ends], return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._stream.close()
            for task in (sending, *ends):
                task.cancel()
            [error, *_] = await asyncio.gather(sending, *ends, return_exceptions=True)
        if error is not None and (abort := scope.get("extensions", {}).get(ABORT)):
            abort()
            await asyncio.sleep(0)  # lets the server notice
        if isinstance(error, TimeoutError):
            log.info("event_client_too_slow", position=str(self._stream.position))
        elif isinstance(error, Exception):
            raise error

    async def _send_all(self, send: Send) -> None:
        """Send everything. Raises TimeoutError if the client reads nothing."""
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async with contextlib.aclosing(self._blocks()) as blocks:
            async for block in blocks:
                async with asyncio.timeout(SEND_SECONDS):
                    await send({"type": "http.response.body", "body": block, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _blocks(self) -> AsyncGenerator[bytes]:
        """Yield the blocks to send. Each one advances the client's last event id."""
        yield b"retry: %d\nid: %b\n\n" % (RETRY_MS, self._id())
        beat = time.monotonic()
        while not self._events.closed.is_set():
            received = await self._stream.take(BEAT_SECONDS)
            text = RESET % self._id() if self._stream.take_reset() else b""
            text += b"".join(one.text for one in received)
            if time.monotonic() - beat >= BEAT_SECONDS:
                if not await self._still_may_read():
                    return
                text, beat = text or b": alive\nid: %b\n\n" % self._id(), time.monotonic()
            if text:
                yield text
            if any(one.event.name == self._last for one in received):
                return

    async def _still_may_read(self) -> bool:
        try:
            await self._may_read()
        except DomainError:
            return False
        except Exception as error:
            if not is_unavailable(error):  # without the database nothing is sent anyway
                raise
        return True

    async def _stopped(self) -> None:
        await self._events.closed.wait()
        await asyncio.sleep(FAREWELL_SECONDS)

    def _id(self) -> bytes:
        return str(self._stream.position).encode()


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def may_read(request: Request) -> MayRead:
    """Return a check that the caller may still read: a token expires, a user is disabled."""

    async def check() -> None:
        caller = await request.app.state.authenticator.principal(
            request.headers.get("authorization")
        )
        caller.require(Permission.READ)

    return check


async def get_events(request: Request) -> Broadcaster:
    """Return the process's event streams, as a dependency."""
    events: Broadcaster = request.app.state.events
    return events


Streams = Annotated[Broadcaster, Depends(get_events)]
