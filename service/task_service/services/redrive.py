"""Redrive: run failed tasks again, many at a time, inside the caller's transaction."""

import structlog

from task_service.domain.principals import Principal
from task_service.queue.entries import Entry, enqueue
from task_service.services.transactions import Transaction
from task_service.store.redrive import DeadLetters, reopen_failed

log = structlog.get_logger(__name__)


async def redrive(
    transaction: Transaction,
    which: DeadLetters,
    limit: int,
    caller: Principal,
    *,
    reason: str | None = None,
) -> int:
    """Make the oldest of these failed tasks pending again, due now, with all their attempts; return
    how many.
    """
    tasks = await reopen_failed(transaction.sql, which, limit, caller.name, reason)
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
    await enqueue(transaction.driver, entries, transaction.wakeups)
    log.info(
        "tasks_redriven",
        number=len(tasks),
        handler=which.handler,
        queue=which.queue,
        by=caller.name,
    )
    return len(tasks)
