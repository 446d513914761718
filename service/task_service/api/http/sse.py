"""Answers that do not end: Server-Sent Events."""

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
from task_service.services.events import Events, Stream
from task_service.store.database import is_unavailable
from task_service.store.events import TaskEvent

MEDIA_TYPE = "text/event-stream"
RETRY_MS = 2000
"""After so long clients connect again."""
BEAT_SECONDS = 10.0
"""So often a silent stream says that it lives, and each looks whether its client still may read."""
SEND_SECONDS = 20.0
"""A client that takes nothing for so long is left."""
FAREWELL_SECONDS = 1.0
ABORT = "task_service.abort"
"""An extension of a request's scope: cuts its connection off."""
RESET = (
    b"id: %b\nevent: reset\n"
    b'data: {"event":"reset","reason":"The database knows nothing of your last event: read anew."}\n\n'
)
MayRead = Callable[[], Awaitable[None]]
log = structlog.get_logger(__name__)


def write_event(e: TaskEvent) -> bytes:
    """An event as a block of the stream."""
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
    """The answer. It ends when the client goes, is too slow or may not read any more, and when the process stops."""

    media_type = MEDIA_TYPE

    def __init__(
        self, events: Events, stream: Stream, may_read: MayRead, last: str | None = None
    ) -> None:
        """`may_read` raises a DomainError when the client may not any more; an event of the name `last` is the last."""
        super().__init__(None, headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._events, self._stream, self._may_read, self._last = events, stream, may_read, last

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Talk until one of the two has had enough."""
        talk = asyncio.create_task(self._talk(send))
        ends = [asyncio.create_task(_gone(receive)), asyncio.create_task(self._stopped())]
        try:
            await asyncio.wait([talk, *ends], return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._stream.close()
            for task in (talk, *ends):
                task.cancel()
            [error, *_] = await asyncio.gather(talk, *ends, return_exceptions=True)
        if error is not None and (abort := scope.get("extensions", {}).get(ABORT)):
            abort()
            await asyncio.sleep(0)  # the server hears of it
        if isinstance(error, TimeoutError):
            log.info("event_client_too_slow", position=str(self._stream.position))
        elif isinstance(error, Exception):
            raise error

    async def _talk(self, send: Send) -> None:
        """Send everything. Raises TimeoutError when the client takes nothing."""
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async with contextlib.aclosing(self._texts()) as texts:
            async for text in texts:
                async with asyncio.timeout(SEND_SECONDS):
                    await send({"type": "http.response.body", "body": text, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _texts(self) -> AsyncGenerator[bytes]:
        """What is to be sent, piece by piece. Every piece brings the client's last event id forward."""
        yield b"retry: %d\nid: %b\n\n" % (RETRY_MS, self._id())
        beat = time.monotonic()
        while not self._events.closed.is_set():
            told = await self._stream.take(BEAT_SECONDS)
            text = RESET % self._id() if self._stream.went_back() else b""
            text += b"".join(one.text for one in told)
            if time.monotonic() - beat >= BEAT_SECONDS:
                if not await self._still_may_read():
                    return
                text, beat = text or b": alive\nid: %b\n\n" % self._id(), time.monotonic()
            if text:
                yield text
            if any(one.event.name == self._last for one in told):
                return

    async def _still_may_read(self) -> bool:
        try:
            await self._may_read()
        except DomainError:
            return False
        except Exception as error:
            if not is_unavailable(
                error
            ):  # else nobody can tell, and there is nothing to read either
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
    """A look whether the request's caller may still read: their token may be over, they may have been disabled."""

    async def look() -> None:
        caller = await request.app.state.authenticator.principal(
            request.headers.get("authorization")
        )
        caller.require(Permission.READ)

    return look


async def get_events(request: Request) -> Events:
    """The process's streams, as a dependency."""
    events: Events = request.app.state.events
    return events


Streams = Annotated[Events, Depends(get_events)]
