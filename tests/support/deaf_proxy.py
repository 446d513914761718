"""A TCP proxy before a server whose answers can be made to get lost or be late, as when a network breaks in a call."""

import asyncio
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit, urlunsplit


class DeafProxy:
    """Forwards to the server of `url`; while `deaf`, what the server says is thrown away."""

    def __init__(self, url: str) -> None:
        self._target = urlsplit(url)
        self._writers: set[asyncio.StreamWriter] = set()
        self._pumps: set[asyncio.Task[None]] = set()
        self._flows = asyncio.Event()
        self._flows.set()
        self.deaf = False

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        self._server.close()
        self.cut()
        await asyncio.gather(*self._pumps)

    @property
    def url(self) -> str:
        """The server's address, by way of this proxy."""
        port = self._server.sockets[0].getsockname()[1]
        user = self._target.netloc.rpartition("@")[0]
        return urlunsplit(self._target._replace(netloc=f"{user}@127.0.0.1:{port}"))

    def stall(self) -> None:
        """Let everything stand still in both directions, new connections too, until `flow` or `cut`."""
        self._flows.clear()

    def flow(self) -> None:
        """Go on after `stall`: what was sent meanwhile arrives late."""
        self._flows.set()

    def cut(self) -> None:
        """Break every connection; new ones are served, and heard."""
        self.deaf = False
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()
        self._flows.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection(self._target.hostname, self._target.port)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, back}
        for pump in (
            self._pump(reader, back, answers=False),
            self._pump(there, writer, answers=True),
        ):
            task = asyncio.create_task(pump)
            self._pumps.add(task)
            task.add_done_callback(self._pumps.discard)

    async def _pump(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, answers: bool
    ) -> None:
        try:
            while data := await source.read(65536):
                await self._flows.wait()
                if not (answers and self.deaf):
                    sink.write(data)
                    await sink.drain()
        except OSError:
            pass
        finally:
            self._writers.discard(sink)
            sink.close()
