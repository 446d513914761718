"""Forgetting tasks that workers ended long ago, a few at a time, so that nobody waits for it.

A task goes with its runs, conversations and history. What counts is the end of its last run; the
search begins with the oldest ids, which tell when a task was made. Tasks of people have no run, and
stay.
"""

import time
from collections.abc import Sequence

from task_service.domain.outcomes import STATUS_OF_OUTCOME, Outcome
from task_service.store.database import Acquire

BATCH = 500
MOST_SECONDS = 1.0
"""How long one sweep goes on with it; the next one goes on."""
FAILED = tuple(outcome for outcome, status in STATUS_OF_OUTCOME.items() if status == "failed")
DONE = (Outcome.COMPLETED, Outcome.CANCELLED)
# One at a time: others have nothing to do. 48 bits of an id (version 7) are the milliseconds when
# it was made.
FORGET = """
WITH turn AS MATERIALIZED (
    SELECT
        pg_try_advisory_xact_lock(7305612448003) AS ours,
        time.before,
        (lpad(to_hex((extract(epoch FROM time.before) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid AS first_id
    FROM (SELECT now() - make_interval(secs => $2) AS before) AS time
),
old AS MATERIALIZED (
    SELECT ended.task_id
    FROM turn
    CROSS JOIN unnest($1::text[]) AS one (outcome)
    CROSS JOIN LATERAL (
        SELECT r.task_id
        FROM runs AS r
        JOIN tasks AS t ON t.id = r.task_id
        WHERE turn.ours AND r.final AND r.outcome = one.outcome AND r.finished_at < turn.before
            AND r.task_id < turn.first_id
        ORDER BY r.task_id
        LIMIT $3::integer
        FOR UPDATE OF t, r SKIP LOCKED
    ) AS ended
    LIMIT $3::integer
),
conversations_gone AS (DELETE FROM conversations WHERE task_id = ANY (ARRAY(SELECT task_id FROM old))),
history_gone AS (DELETE FROM task_history WHERE task_id = ANY (ARRAY(SELECT task_id FROM old))),
runs_gone AS (DELETE FROM runs WHERE task_id = ANY (ARRAY(SELECT task_id FROM old)))
DELETE FROM tasks WHERE id = ANY (ARRAY(SELECT task_id FROM old))
"""


async def forget_tasks(acquire: Acquire, outcomes: Sequence[Outcome], days: float) -> int:
    """Forget tasks that ended so, more than so many days ago, for `MOST_SECONDS`; how many. 0 days:
    they stay.

    Each batch acquires the connection anew, so that others who share it come in between.
    """
    forgotten, until = 0, time.monotonic() + MOST_SECONDS
    while days > 0 and time.monotonic() < until:
        async with acquire() as connection:
            batch = int(
                (await connection.execute(FORGET, list(outcomes), days * 86_400, BATCH)).split()[-1]
            )
        forgotten += batch
        if batch < BATCH:
            break
    return forgotten
