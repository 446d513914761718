"""Set and remove limits, each inside the caller's transaction."""

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from task_service.domain.errors import InvalidFieldError, NotFoundError
from task_service.domain.principals import Principal
from task_service.queue import limits as queue
from task_service.queue.statements import statement
from task_service.queue.wakeups import LIMITS
from task_service.schemas.tasks import NewLimit
from task_service.services.transactions import Transaction
from task_service.store import limits as store
from task_service.store.limits import LimitRow

log = structlog.get_logger(__name__)


async def read_limit(connection: AsyncConnection, kind: str, name: str) -> LimitRow:
    """Read one limit. Raises NotFoundError."""
    row = await store.read_limit(connection, kind, name)
    if row is None:
        raise NotFoundError("limit", f"{kind}/{name}")
    return row


async def put_limit(
    transaction: Transaction, key: tuple[str, str], wanted: NewLimit, caller: Principal
) -> tuple[LimitRow, bool]:
    """Create or replace the limit of this kind and name; return it and whether it is new. Raises
    InvalidFieldError.

    Blocks up to some thousands of waiting tasks at once; workers block the rest within a poll
    interval.
    """
    if wanted.concurrency is None and wanted.rate is None:
        raise InvalidFieldError(
            "concurrency", "give concurrency, or rate with period_seconds, or both"
        )
    if (wanted.rate is None) != (wanted.period_seconds is None):
        raise InvalidFieldError("period_seconds", "goes with rate: give both, or neither")
    values = wanted.concurrency, wanted.rate, wanted.period_seconds
    is_new = await store.put_limit(transaction.sql, key, *values, caller.name)
    await queue.block_by_limit(transaction.driver)
    await _wake_admission(transaction)
    log.info("limit_set", kind=key[0], name=key[1], by=caller.name, **wanted.model_dump())
    return await read_limit(transaction.sql, *key), is_new


async def remove_limit(transaction: Transaction, key: tuple[str, str], caller: Principal) -> None:
    """Remove a limit, so that the tasks that it blocked may run. Raises NotFoundError."""
    if not await store.delete_limit(transaction.sql, *key):
        raise NotFoundError("limit", "/".join(key))
    await _wake_admission(transaction)
    log.info("limit_removed", kind=key[0], name=key[1], by=caller.name)


async def _wake_admission(transaction: Transaction) -> None:
    await transaction.driver.execute(
        statement("notify_queues"), transaction.wakeups.inside([LIMITS])
    )
