"""A client of Server-Sent Events, which takes them apart as browsers do."""

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
class Ear:
    """What one stream has said so far."""

    answer: httpx.Response
    messages: list[Message] = field(default_factory=list)
    comments: list[str] = field(default_factory=list)
    last_id: str = ""
    retry_ms: int | None = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    broken: BaseException | None = None

    def names(self) -> list[tuple[str, str]]:
        """Task and event, without the prefix, of every message."""
        return [(m.data["task_id"], m.event.removeprefix("task.")) for m in self.messages]

    async def hears(
        self, what: str, enough: Callable[[list[Message]], Any], seconds: float = 15.0
    ) -> list[Message]:
        """Wait until the messages are enough."""

        async def probe() -> Any:
            assert not self.broken, self.broken
            return enough(self.messages)

        await eventually(what, probe, seconds)
        return self.messages

    async def hears_number(self, number: int, seconds: float = 15.0) -> list[Message]:
        """Wait until there are so many messages."""
        return await self.hears(f"{number} events", lambda heard: len(heard) >= number, seconds)

    async def read(self) -> None:
        """Take the stream apart until it ends."""
        block: dict[str, str] = {}
        try:
            async for line in self.answer.aiter_lines():
                if not line:
                    self._dispatch(block)
                    block = {}
                elif line.startswith(":"):
                    self.comments.append(line[1:].strip())
                else:
                    name, _, value = line.partition(":")
                    block[name] = value.removeprefix(" ")
        except httpx.HTTPError as error:
            self.broken = error
        finally:
            self.ended.set()

    def _dispatch(self, block: dict[str, str]) -> None:
        self.last_id = block.get("id", self.last_id)
        self.retry_ms = int(block["retry"]) if "retry" in block else self.retry_ms
        if "data" in block:
            self.messages.append(Message(self.last_id, block["event"], json.loads(block["data"])))


@contextlib.asynccontextmanager
async def hearing(
    url: str, after: str | None = None, token: str | None = None, **params: Any
) -> AsyncIterator[Ear]:
    """An open stream, which is read beside what the test does. `after` is the last event id."""
    headers = {"Last-Event-ID": after} if after else {}
    if token:
        headers["authorization"] = f"Bearer {token}"
    async with (
        httpx.AsyncClient(timeout=httpx.Timeout(10, read=60)) as client,
        client.stream("GET", url, params=params, headers=headers) as answer,
    ):
        ear = Ear(answer)
        if answer.status_code != 200:
            await answer.aread()
            yield ear
            return
        assert answer.headers["content-type"].startswith("text/event-stream")
        reading = asyncio.create_task(ear.read())
        try:
            await eventually("the stream's first id", lambda: _has_begun(ear))
            yield ear
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)


async def _has_begun(ear: Ear) -> bool:
    return bool(ear.last_id) or ear.ended.is_set()
