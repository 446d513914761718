"""A client of Server-Sent Events that parses streams as browsers do."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.support.waiting import eventually


@dataclass(frozen=True)
class Message:
    """One event of a stream."""

    id: str
    event: str
    data: dict[str, Any]


@dataclass
class EventStream:
    """The events that one stream has sent so far."""

    response: httpx.Response
    messages: list[Message] = field(default_factory=list)
    comments: list[str] = field(default_factory=list)
    last_id: str = ""
    retry_ms: int | None = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    error: BaseException | None = None

    def summaries(self) -> list[tuple[str, str]]:
        """Return the task id and the event, without the prefix, of every message."""
        return [(m.data["task_id"], m.event.removeprefix("task.")) for m in self.messages]

    async def wait_until(
        self, what: str, condition: Callable[[list[Message]], Any], seconds: float = 15.0
    ) -> list[Message]:
        """Wait until the messages meet the condition, and return them."""

        async def probe() -> Any:
            assert not self.error, self.error
            return condition(self.messages)

        await eventually(what, probe, seconds)
        return self.messages

    async def wait_for_count(self, count: int, seconds: float = 15.0) -> list[Message]:
        """Wait until the stream has sent this many messages, and return them."""
        return await self.wait_until(f"{count} events", lambda m: len(m) >= count, seconds)

    async def read(self) -> None:
        """Parse the stream until it ends."""
        block: dict[str, str] = {}
        try:
            async for line in self.response.aiter_lines():
                if not line:
                    self._dispatch(block)
                    block = {}
                elif line.startswith(":"):
                    self.comments.append(line[1:].strip())
                else:
                    name, _, value = line.partition(":")
                    block[name] = value.removeprefix(" ")
        except httpx.HTTPError as error:
            self.error = error
        finally:
            self.ended.set()

    def _dispatch(self, block: dict[str, str]) -> None:
        self.last_id = block.get("id", self.last_id)
        self.retry_ms = int(block["retry"]) if "retry" in block else self.retry_ms
        if "data" in block:
            self.messages.append(Message(self.last_id, block["event"], json.loads(block["data"])))


@contextlib.asynccontextmanager
async def open_stream(
    url: str, after: str | None = None, token: str | None = None, **params: Any
) -> AsyncIterator[EventStream]:
    """Open a stream and read it in the background. `after` is the last event id."""
    headers = {"Last-Event-ID": after} if after else {}
    if token:
        headers["authorization"] = f"Bearer {token}"
    async with (
        httpx.AsyncClient(timeout=httpx.Timeout(10, read=60)) as client,
        client.stream("GET", url, params=params, headers=headers) as response,
    ):
        stream = EventStream(response)
        if response.status_code != 200:
            await response.aread()
            yield stream
            return
        assert response.headers["content-type"].startswith("text/event-stream")
        reading = asyncio.create_task(stream.read())
        try:
            await eventually("the first id of the stream", lambda: _has_begun(stream))
            yield stream
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)


async def _has_begun(stream: EventStream) -> bool:
    return bool(stream.last_id) or stream.ended.is_set()
