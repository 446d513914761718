"""The connection to Redis or Valkey: short waits, scripts, and knowing which server it is that
answers.

A server's values are worth something only while it is the same server in the same role: after a
restart it may have loaded an old dump, after a failover it may lack the last writes. So every
connection asks who answers, and a link speaks to one server at a time, named by its `tag`; when
another one answers, the link starts anew with another tag.

After a failure the link is away for a while and refuses at once: a server that hangs slows only the
first requests. It is asked again much sooner when it was dead: that shows at once, and it may be
back as quickly.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import cache
from hashlib import sha1
from importlib.resources import files
from typing import Any, TypeVar

import structlog
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as LostConnectionError
from redis.exceptions import NoScriptError, RedisError, ResponseError

from task_service.clocks import machine_seconds

MAX_CONNECTIONS = 32
DEAD_SECONDS, AWAY_SECONDS = 0.1, 3.0
"""For so long nobody tries again by themselves; a loop that looks every second finds out earlier,
or extends it.
"""
FAILURES = (RedisError, OSError, TimeoutError, ValueError)  # the last: an address that is none
BROKEN = (LostConnectionError, ConnectionError)
T = TypeVar("T")
log = structlog.get_logger(__name__)


class RedisAwayError(Exception):
    """Redis did not answer, or refused."""


class AnotherServerError(LostConnectionError):
    """Behind the address is now another server than before."""


@cache
def script_text(name: str) -> str:
    """The text of `NAME.lua`."""
    return files(__package__).joinpath(f"{name}.lua").read_text()


class _Server:
    """One server and the connections to it. `tag` names its run and the history of its data."""

    def __init__(self, url: str, timeout_seconds: float) -> None:
        self.tag = ""
        self._pool = ConnectionPool.from_url(
            url,
            protocol=2,
            # the link bounds each call; redis-py's own bound loses cancellations on Python 3.11
            socket_timeout=None,
            socket_connect_timeout=timeout_seconds,
            retry=Retry(NoBackoff(), 0),
            redis_connect_func=self._greet,
            client_name="task-service",
        )
        self.client = Redis(connection_pool=self._pool)

    async def _greet(self, connection: AbstractConnection) -> None:
        await connection.on_connect()
        facts: dict[str, str] = {}
        for section in ("server", "replication"):
            await connection.send_command("INFO", section)
            answer = await connection.read_response()
            text = answer.decode() if isinstance(answer, bytes) else str(answer)
            facts |= dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
        if facts.get("role") != "master":
            raise AnotherServerError(f"this server is a {facts.get('role')}")
        # A restart changes the first, a failover the second: a former master that comes back is not
        # believed either.
        tag = f"{facts.get('run_id')}.{facts.get('master_replid')}"
        if self.tag not in ("", tag):
            raise AnotherServerError("another server answers")
        self.tag = tag

    async def greet(self) -> None:
        """Connect once, so that the tag is known."""
        connection = await self._pool.get_connection()  # type: ignore[no-untyped-call]
        await self._pool.release(connection)

    async def close(self) -> None:
        """End all connections."""
        await self._pool.disconnect(inuse_connections=True)


class RedisLink:
    """Runs scripts on the present server. The address and its credentials are read anew for each
    server.
    """

    def __init__(
        self,
        read_url: Callable[[], str],
        timeout_seconds: float,
        clock: Callable[[], float] = machine_seconds,
    ) -> None:
        self._read_url, self._timeout, self._clock = read_url, timeout_seconds, clock
        self._server: _Server | None = None
        self._away_until, self._is_lost = float("-inf"), False
        self._slots, self._opening = asyncio.Semaphore(MAX_CONNECTIONS), asyncio.Lock()

    @property
    def tag(self) -> str:
        """The server that is spoken to now; empty while there is none."""
        return self._server.tag if self._server else ""

    async def run(
        self,
        script: str,
        keys: Sequence[str],
        args: Callable[[str], Sequence[Any]],
        *,
        on: str | None = None,
    ) -> tuple[str, Any]:
        """Run `NAME.lua`, which must bear being run twice; its arguments are made for the tag of
        the server.

        Gives that tag and the answer, which is None when the server is not the one named by `on`.
        Raises RedisAwayError.
        """

        async def call(server: _Server) -> tuple[str, Any]:
            if on is not None and server.tag != on:
                return server.tag, None
            text, values = script_text(script), [len(keys), *keys, *args(server.tag)]
            try:
                return server.tag, await server.client.evalsha(_digest(text), *values)
            except NoScriptError:
                return server.tag, await server.client.eval(text, *values)

        return await self._attempt(call)

    async def look(self) -> None:
        """Ask over a new connection who answers at the address now, and speak to that server from
        here on.

        Raises RedisAwayError; succeeds also while the link refuses, and ends that.
        """
        try:
            async with asyncio.timeout(self._timeout):
                found = await self._connect()
        except FAILURES as error:
            raise await self._lost(error) from error
        if self._server is not None and self._server.tag == found.tag:
            await found.close()
        else:
            await self._drop()
            self._server = found
        self._away_until, self._is_lost = float("-inf"), False

    async def close(self) -> None:
        """End all connections; a later call makes new ones."""
        await self._drop()

    async def _attempt(self, call: Callable[[_Server], Awaitable[T]]) -> T:
        """Call with the present server. A connection that broke while it was idle gets a second
        try.
        """
        async with self._slots:
            for is_last in (False, True):
                if self._clock() < self._away_until:
                    raise RedisAwayError("it did not answer a moment ago")
                used = self._server
                try:
                    async with asyncio.timeout(self._timeout):
                        used = await self._present()
                        return await call(used)
                except (
                    ResponseError
                ) as error:  # it answers, but does not do this: out of memory, a replica by now
                    raise RedisAwayError(str(error)) from error
                except FAILURES as error:
                    if is_last or used is None or not isinstance(error, BROKEN):
                        raise await self._lost(error) from error
                    if self._server is used:
                        await self._drop()
        raise AssertionError

    async def _present(self) -> _Server:
        async with self._opening:
            if self._server is None:
                self._server = await self._connect()
            return self._server

    async def _connect(self) -> _Server:
        server = _Server(self._read_url(), self._timeout)
        try:
            await server.greet()
        except BaseException:
            await server.close()
            raise
        return server

    async def _lost(self, error: BaseException) -> RedisAwayError:
        self._away_until = self._clock() + (
            DEAD_SECONDS if isinstance(error, BROKEN) else AWAY_SECONDS
        )
        if not self._is_lost:
            log.warning(
                "redis_away", error=type(error).__name__
            )  # its text may hold the address and more
        self._is_lost = True
        await self._drop()
        return RedisAwayError(type(error).__name__)

    async def _drop(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            await server.close()


@cache
def _digest(text: str) -> str:
    return sha1(text.encode(), usedforsecurity=False).hexdigest()
