"""Dead letters: what failed is run again, many at a time, in the caller's transaction."""

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from task_service.domain.principals import Principal
from task_service.queue.entries import Entry, enqueue
from task_service.services.context import Context
from task_service.store.database import raw
from task_service.store.redrive import DeadLetters, reopen_failed

log = structlog.get_logger(__name__)


async def redrive(
    context: Context,
    connection: AsyncConnection,
    which: DeadLetters,
    most: int,
    caller: Principal,
    reason: str | None,
) -> int:
    """Make the oldest of these failed tasks pending again, due now, with all their attempts; return how many."""
    tasks = await reopen_failed(connection, which, most, caller.name, reason)
    entries = [
        Entry(
            t.id,
            t.queue,
            t.priority,
            None,
            t.max_attempts,
            t.timeout_seconds,
            t.handler,
            t.fence,
            t.limit_key,
        )
        for t in tasks
    ]
    await enqueue(await raw(connection), entries, context.wakeups)
    log.info(
        "tasks_redriven",
        number=len(tasks),
        handler=which.handler,
        queue=which.queue,
        by=caller.name,
    )
    return len(tasks)
