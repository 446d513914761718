"""Connections: how they are made, which errors mean that the database is away, where SQLAlchemy's
meet the queue's.

Every connect reads the credentials afresh, so a rotated password needs no restart.
"""

import socket
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeAlias, cast

import asyncpg
from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError, InvalidatePoolError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from task_service.settings import Settings

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

    Driver: TypeAlias = asyncpg.Connection[Any] | PoolConnectionProxy[Any]
else:
    Driver = asyncpg.Connection

Acquire: TypeAlias = Callable[[], AbstractAsyncContextManager[Driver]]
"""Lends a connection of the driver; what is done with it commits by the end of the loan."""
CONNECT_SECONDS = 5.0
SHORTEST_LIMIT_SECONDS = 3.0
LOOK_UPS = {"plan_cache_mode": "force_generic_plan"} | {
    f"enable_{way}": "off" for way in ("seqscan", "bitmapscan", "sort", "hashjoin", "mergejoin")
}
"""For sessions that do nothing but look rows up by index: one plan, kept, whatever the statistics
say.
"""
FIRST_OID_OF_USERS = 16384
UNNAMED = SimpleNamespace(name="")
"""In place of the statement that would have asked. By its name the driver knows whether to prepare
another one anew.
"""
IDLE_SECONDS = 1.0
"""A pooled connection that was used more recently is handed out unasked: a ping is three round
trips.
"""
AWAY = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    # an answer that it did not expect, as of a connection that broke off in the middle
    asyncpg.InternalClientError,
    asyncpg.exceptions.CannotConnectNowError,
    asyncpg.exceptions.AdminShutdownError,
    asyncpg.exceptions.CrashShutdownError,
    asyncpg.InsufficientResourcesError,  # too many connections, no memory, no space on the disk
    asyncpg.exceptions.InvalidAuthorizationSpecificationError,
    asyncpg.exceptions.InvalidCatalogNameError,
    asyncpg.exceptions.ReadOnlySQLTransactionError,  # a primary that has just become a standby
    asyncpg.exceptions.IdleInTransactionSessionTimeoutError,
    PoolTimeoutError,
)


class Executes(Protocol):
    """An asyncpg connection, or its pool's stand-in for one."""

    async def execute(self, query: str, /, *args: Any) -> str:
        """Run one statement."""
        ...


class Connection(asyncpg.Connection):
    """A connection of the driver that asks about PostgreSQL's own types once in a process.

    What the driver must know of arrays, it asks anew on each connection, when a statement first has
    one: 3 to 7 ms of the server each time, for an answer that is the same in each database.
    """

    __slots__ = ()
    _known: ClassVar[dict[frozenset[int], Any]] = {}

    async def _introspect_types(
        self,
        typeoids: Iterable[int],
        timeout: float | None,  # noqa: ASYNC109
    ) -> tuple[Any, Any]:
        wanted = frozenset(typeoids)
        if wanted in self._known:
            return self._known[wanted], UNNAMED
        types, statement = await super()._introspect_types(typeoids, timeout)  # type: ignore[misc]
        if max(wanted) < FIRST_OID_OF_USERS:
            self._known[wanted] = types
        return types, statement


async def connect(
    settings: Settings, session: Mapping[str, str] | None = None, **options: Any
) -> asyncpg.Connection:
    """Open one connection with the present credentials; `session` is set on it, `options` are
    asyncpg's.

    A direct connection gets server-side limits, so that a node that is cut off in the middle of a
    transaction does not keep its locks beyond a lease. A transaction pooler takes no session
    settings: set them on the database there.
    """
    options = {"timeout": CONNECT_SECONDS} | options
    if settings.database_pooler:
        options |= {"statement_cache_size": 0}
    else:
        options |= {"server_settings": server_settings(settings) | dict(session or {})}
    connection = await asyncpg.connect(
        settings.read_database_url(), connection_class=Connection, **options
    )
    _bound_silence(connection, settings)
    return connection


def server_settings(settings: Settings) -> dict[str, str]:
    """Limits that the server keeps for a session, in milliseconds: below the lease, above a pause
    of a busy machine.
    """
    below_lease = str(int(max(settings.lease_seconds * 2 / 3, SHORTEST_LIMIT_SECONDS) * 1000))
    return {
        "application_name": f"task-service {settings.pod_name or ''}".strip(),
        "idle_in_transaction_session_timeout": below_lease,
        "tcp_user_timeout": below_lease,
        # a plan made while the queue was empty would read all of it later
        "plan_cache_mode": "force_custom_plan",
        "jit": "off",  # statements of a millisecond are not worth compiling
        # for a bitmap of a million tasks by their words; else each must be looked at again
        "work_mem": "32MB",
    }


def _bound_silence(connection: asyncpg.Connection, settings: Settings) -> None:
    """Let the kernel give up on unacknowledged data within a lease (default: 15 minutes)."""
    transport: Any = connection._transport  # type: ignore[attr-defined]
    sock = transport.get_extra_info("socket")
    if (
        sock is not None
        and sock.family in (socket.AF_INET, socket.AF_INET6)
        and hasattr(socket, "TCP_USER_TIMEOUT")
    ):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(
            socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(settings.lease_seconds * 1000)
        )


def create_engine(settings: Settings, *, pooled: bool = True) -> AsyncEngine:
    """SQLAlchemy's engine over asyncpg, for the API and the migrations. Nothing is connected yet."""

    async def creator(**_: Any) -> asyncpg.Connection:
        return await connect(settings, **(_statement_timeout(settings) if pooled else {}))

    pool: dict[str, Any] = {"poolclass": NullPool}
    if pooled:
        pool = {
            "pool_size": settings.db_pool_size,
            "max_overflow": settings.db_max_overflow,
            "pool_recycle": settings.db_pool_recycle_seconds,
            "pool_timeout": settings.db_pool_timeout_seconds,
        }
    arguments: dict[str, Any] = {}
    if settings.database_pooler:
        # Unnamed: a named one would stay behind on a server connection that somebody else gets
        # next.
        arguments = {"prepared_statement_cache_size": 0, "prepared_statement_name_func": str}
    # Parameters are people's data, hashes of passwords among them: they are no matter for logs.
    engine = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=creator,
        connect_args=arguments,
        hide_parameters=True,
        **pool,
    )
    if pooled:
        event.listen(engine.sync_engine, "connect", _note_fresh)
        event.listen(engine.sync_engine, "checkin", _note_use)
        event.listen(engine.sync_engine, "checkout", _require_living)
        event.listen(engine.sync_engine, "handle_error", _doubt)
    return engine


def _note_fresh(_: Any, record: Any) -> None:
    record.info["fresh"] = True


def _note_use(_: Any, record: Any) -> None:
    record.info["used"] = time.monotonic()


def _doubt(failure: Any) -> None:
    """A connection whose statement failed is asked before its next use."""
    if failure.connection is not None and not failure.connection.invalidated:
        failure.connection.info["failed"] = True


def _require_living(connection: Any, record: Any, _: Any) -> None:
    """Hand out no connection that is known to be closed, or has been idle and does not answer.

    One goes, all go: the server has restarted, and the pool connects anew. A new connection is
    handed out as it is: the pool would call one that a pooler serves without a server "closed", and
    not say that the database is away.
    """
    if record.info.pop("fresh", False):
        return
    if connection.driver_connection.is_closed():
        raise InvalidatePoolError("the server has closed the connection")
    if time.monotonic() - record.info.get("used", 0.0) > IDLE_SECONDS or record.info.pop(
        "failed", False
    ):
        try:
            connection.ping()
        except Exception as error:
            raise InvalidatePoolError("the server does not answer") from error


def _statement_timeout(settings: Settings) -> dict[str, Any]:
    """The longest statement: kept by the server; behind a pooler, which may wait for one of them,
    by the driver.
    """
    seconds = settings.db_statement_timeout_seconds
    if settings.database_pooler:
        return {"command_timeout": seconds}
    return {"session": {"statement_timeout": str(int(seconds * 1000))}}


async def create_pool(settings: Settings, size: int) -> asyncpg.Pool:
    """A pool of raw connections, for the queue; a statement that takes longer than a lease is given
    up.
    """

    async def opener(*_: Any, **options: Any) -> asyncpg.Connection:
        for name in ("loop", "connection_class", "record_class"):
            options.pop(name, None)
        return await connect(settings, command_timeout=settings.lease_seconds)

    async def keep(_: asyncpg.Connection) -> None:
        """Between two uses there is nothing to reset: the queue sets nothing on a session."""

    return await asyncpg.create_pool(min_size=0, max_size=size, connect=opener, reset=keep)


def looking_up(settings: Settings, acquire: Acquire) -> Acquire:
    """Connections with `LOOK_UPS`. Those of `acquire` have them, but behind a pooler: a transaction
    sets them there.
    """
    if not settings.database_pooler:
        return acquire
    given = "; ".join(f"SET LOCAL {name} = {value}" for name, value in LOOK_UPS.items())

    @asynccontextmanager
    async def acquire_and_set() -> AsyncIterator[Driver]:
        async with acquire() as connection, connection.transaction():
            await connection.execute(given)
            yield connection

    return acquire_and_set


def acquire_from(engine: AsyncEngine) -> Acquire:
    """Lend the driver's own connections of an engine."""
    statements = engine.execution_options(isolation_level="AUTOCOMMIT")

    @asynccontextmanager
    async def acquire() -> AsyncIterator[Driver]:
        async with statements.connect() as connection:
            yield await raw(connection)

    return acquire


async def raw(connection: AsyncConnection) -> asyncpg.Connection:
    """The asyncpg connection under SQLAlchemy's, inside the same transaction."""
    if not connection.in_transaction():
        await connection.begin()
    pooled = await connection.get_raw_connection()
    adapted: Any = pooled.dbapi_connection
    if (
        adapted._transaction is None
    ):  # SQLAlchemy opens it with its own first statement; the queue's may come before
        await adapted._start_transaction()
    return cast("asyncpg.Connection", pooled.driver_connection)


async def ping(connection: AsyncConnection) -> None:
    """Ask the database for an answer."""
    await connection.execute(text("SELECT 1"))


def is_unavailable(error: BaseException | None) -> bool:
    """Whether an error means that the database is away, and the same call may work in a moment."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, AWAY) and not isinstance(
            error, ValueError
        ):  # asyncpg's for wrong arguments is both
            return True
        if isinstance(error, DBAPIError) and error.connection_invalidated:
            return True
        error = error.__cause__ or getattr(error, "orig", None) or error.__context__
    return False
