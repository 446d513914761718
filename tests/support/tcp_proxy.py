"""A TCP proxy that can delay, drop and break connections, to simulate network faults."""

import asyncio
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit, urlunsplit


class TcpProxy:
    """Forward connections to the server of `url`; discard its responses while `drop_responses`."""

    def __init__(self, url: str) -> None:
        self._target = urlsplit(url)
        self._writers: set[asyncio.StreamWriter] = set()
        self._pumps: set[asyncio.Task[None]] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self.drop_responses = False

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        self._server.close()
        self.disconnect()
        await asyncio.gather(*self._pumps)

    @property
    def url(self) -> str:
        """The server's URL with the address of this proxy."""
        port = self._server.sockets[0].getsockname()[1]
        user = self._target.netloc.rpartition("@")[0]
        return urlunsplit(self._target._replace(netloc=f"{user}@127.0.0.1:{port}"))

    def pause(self) -> None:
        """Hold back all data in both directions, including on new connections."""
        self._flowing.clear()

    def resume(self) -> None:
        """Continue after `pause` and deliver the data that was held back."""
        self._flowing.set()

    def disconnect(self) -> None:
        """Break every connection, and serve new connections normally."""
        self.drop_responses = False
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()
        self._flowing.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            upstream_reader, upstream_writer = await asyncio.open_connection(
                self._target.hostname, self._target.port
            )
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, upstream_writer}
        for pump in (
            self._pump(reader, upstream_writer, is_response=False),
            self._pump(upstream_reader, writer, is_response=True),
        ):
            task = asyncio.create_task(pump)
            self._pumps.add(task)
            task.add_done_callback(self._pumps.discard)

    async def _pump(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, is_response: bool
    ) -> None:
        try:
            while data := await source.read(65536):
                await self._flowing.wait()
                if not (is_response and self.drop_responses):
                    sink.write(data)
                    await sink.drain()
        except OSError:
            pass
        finally:
            self._writers.discard(sink)
            sink.close()
