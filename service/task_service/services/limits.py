"""Setting and removing limits, in the caller's transaction (`Context.write`)."""

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from task_service.domain.errors import InvalidFieldError, NotFoundError
from task_service.domain.principals import Principal
from task_service.queue import limits as queue
from task_service.queue.statements import statement
from task_service.queue.wakeups import LIMITS
from task_service.schemas.tasks import NewLimit
from task_service.services.context import Context
from task_service.store import limits as store
from task_service.store.database import raw
from task_service.store.limits import LimitRow

log = structlog.get_logger(__name__)


async def read_limit(connection: AsyncConnection, kind: str, name: str) -> LimitRow:
    """One limit. Raises NotFoundError."""
    row = await store.read_limit(connection, kind, name)
    if row is None:
        raise NotFoundError("limit", f"{kind}/{name}")
    return row


async def put_limit(
    context: Context,
    connection: AsyncConnection,
    key: tuple[str, str],
    wanted: NewLimit,
    caller: Principal,
) -> tuple[LimitRow, bool]:
    """Set the limit of this kind and name, and tell whether it is new. Raises InvalidFieldError.

    What waits for a worker already is held back at once, up to some thousands; workers do the rest within a poll.
    """
    if wanted.concurrency is None and wanted.rate is None:
        raise InvalidFieldError(
            "concurrency", "give concurrency, or rate with period_seconds, or both"
        )
    if (wanted.rate is None) != (wanted.period_seconds is None):
        raise InvalidFieldError("period_seconds", "goes with rate: give both, or neither")
    given = wanted.concurrency, wanted.rate, wanted.period_seconds
    made = await store.put_limit(connection, key, *given, caller.name)
    await queue.hold_back(await raw(connection))
    await _wake(context, connection)
    log.info("limit_set", kind=key[0], name=key[1], by=caller.name, **wanted.model_dump())
    return await read_limit(connection, *key), made


async def remove_limit(
    context: Context, connection: AsyncConnection, key: tuple[str, str], caller: Principal
) -> None:
    """Remove a limit: what it held back may run. Raises NotFoundError."""
    if not await store.delete_limit(connection, *key):
        raise NotFoundError("limit", "/".join(key))
    await _wake(context, connection)
    log.info("limit_removed", kind=key[0], name=key[1], by=caller.name)


async def _wake(context: Context, connection: AsyncConnection) -> None:
    await (await raw(connection)).execute(statement("notify"), context.wakeups.inside([LIMITS]))
