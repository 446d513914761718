"""Dead letters: failed tasks that workers ran, opened again many at a time."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from task_service.domain.outcomes import STATUS_OF_OUTCOME
from task_service.store.database import raw
from task_service.telemetry.helpers import traced_statement

FAILED = tuple(outcome for outcome, status in STATUS_OF_OUTCOME.items() if status == "failed")
# Locked are the task and its run, so that what somebody else has opened, changed or deleted
# meanwhile is left out.
REOPEN = """
WITH dead AS MATERIALIZED (
    SELECT t.id, r.fence, t.queue, t.priority, t.max_attempts, t.timeout_seconds, t.handler, t.limit_key
    FROM runs AS r
    JOIN tasks AS t ON t.id = r.task_id
    WHERE r.final AND NOT r.hidden AND r.outcome = ANY ($1::text[])
        AND t.deleted_at IS NULL AND t.status IS NULL AND t.handler IS NOT NULL
        AND ($2::text IS NULL OR t.handler = $2)
        AND ($3::text IS NULL OR t.queue = $3)
        AND ($4::timestamptz IS NULL OR r.finished_at >= $4)
        AND ($5::timestamptz IS NULL OR r.finished_at < $5)
    ORDER BY t.id
    LIMIT $6
    FOR UPDATE OF t, r SKIP LOCKED
),
reopened AS (
    UPDATE runs SET final = false, reopened = true FROM dead WHERE runs.task_id = dead.id AND runs.fence = dead.fence
),
changed AS (
    UPDATE tasks SET run_at = NULL, version = version + 1, stamp = stamp + 1, updated_at = clock_timestamp()
    FROM dead WHERE tasks.id = dead.id
),
noted AS (
    INSERT INTO task_history (task_id, previous_status, new_status, changed_by, reason, fields)
    SELECT id, 'failed', 'pending', $7, $8, '{run_at,status}' FROM dead
)
SELECT * FROM dead
"""


@dataclass(frozen=True, slots=True)
class DeadLetters:
    """Which failed tasks; times are of their last attempt's end. What is None does not filter."""

    handler: str | None = None
    queue: str | None = None
    failed_after: datetime | None = None
    failed_before: datetime | None = None


@dataclass(frozen=True, slots=True)
class Reopened:
    """A task that waits again, as the queue needs it; `fence` is its last one."""

    id: UUID
    fence: int
    queue: str
    priority: int
    max_attempts: int
    timeout_seconds: int | None
    handler: str
    limit_key: str | None


async def reopen_failed(
    connection: AsyncConnection, which: DeadLetters, most: int, actor: str, reason: str | None
) -> list[Reopened]:
    """Open the oldest of them again, with a line in their history; the caller enters them into the
    queue.
    """
    driver = await raw(connection)
    filters = (which.handler, which.queue, which.failed_after, which.failed_before)
    with traced_statement(REOPEN):
        rows = await driver.fetch(REOPEN, FAILED, *filters, most, actor, reason)
    return [Reopened(**row) for row in rows]
