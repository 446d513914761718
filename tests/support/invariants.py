"""What must hold of the whole database at any time, whatever was done to it."""

import asyncpg

OWNERS = """
    SELECT t.id, t.status, q.state, r.finals
    FROM tasks AS t
    LEFT JOIN queue AS q ON q.task_id = t.id
    CROSS JOIN LATERAL (SELECT count(*) AS finals FROM runs WHERE runs.task_id = t.id AND final) AS r
    WHERE (t.status IS NOT NULL)::int + (q.task_id IS NOT NULL)::int + r.finals <> 1
"""
STRAY_QUEUE = "SELECT task_id FROM queue AS q WHERE NOT EXISTS (SELECT FROM tasks AS t WHERE t.id = q.task_id)"
STRAY_RUNS = "SELECT task_id, fence FROM runs AS r WHERE NOT EXISTS (SELECT FROM tasks AS t WHERE t.id = r.task_id)"
FENCES = """
    SELECT q.task_id, q.fence, max(r.fence) AS highest
    FROM queue AS q JOIN runs AS r ON r.task_id = q.task_id
    GROUP BY q.task_id, q.fence, q.state
    HAVING max(r.fence) > q.fence OR (q.state = 'running' AND max(r.fence) = q.fence)
"""
GAPS = """
    SELECT q.task_id, q.fence, q.state, r.ended FROM queue AS q
    CROSS JOIN LATERAL (SELECT count(*) AS ended FROM runs WHERE runs.task_id = q.task_id) AS r
    WHERE r.ended + (q.state = 'running')::int <> q.fence
"""
HOLDERS = """
    SELECT q.task_id, q.worker_id FROM queue AS q
    WHERE q.state = 'running'
        AND NOT EXISTS (SELECT FROM workers AS w WHERE w.id = q.worker_id AND w.released_at IS NULL)
"""
HIDDEN = """
    SELECT t.id, t.deleted_at FROM tasks AS t
    LEFT JOIN queue AS q ON q.task_id = t.id
    LEFT JOIN runs AS r ON r.task_id = t.id AND r.final
    WHERE coalesce(q.hidden, r.hidden, false) <> (t.deleted_at IS NOT NULL AND t.status IS NULL)
"""
COUNTS = """
    SELECT dimension, value, sum(number) AS too_many
    FROM (
        SELECT dimension, value, number FROM task_counts
        UNION ALL
        SELECT dimension, value, number FROM task_deltas
        UNION ALL
        SELECT 'priority', priority::text, -1 FROM tasks WHERE deleted_at IS NULL
        UNION ALL
        SELECT 'own', status, -1 FROM tasks WHERE deleted_at IS NULL AND status IS NOT NULL
        UNION ALL
        SELECT 'run', status_of_outcome(outcome), -1 FROM runs WHERE final AND NOT hidden
        UNION ALL
        SELECT 'queue', queue, -1 FROM queue
    ) AS parts
    GROUP BY dimension, value
    HAVING sum(number) <> 0
"""
WAITERS = "SELECT task_id, state FROM queue WHERE waits AND state <> 'blocked'"
LIMITS = """
    SELECT l.kind, l.name, l.concurrency, count(*) AS running
    FROM limits AS l
    JOIN queue AS q ON q.state = 'running' AND q.limited AND q.claimed_at > l.updated_at + interval '3 seconds'
        AND CASE l.kind WHEN 'queue' THEN q.queue ELSE q.limit_key END = l.name
    GROUP BY l.kind, l.name, l.concurrency
    HAVING count(*) > l.concurrency
"""
"""Of tasks that were claimed since the limit was set and a poll held back what was in line: what
runs goes on.
"""


async def check_invariants(connection: asyncpg.Connection) -> None:
    """Assert of all tasks: one of a queue row, a final run and a status of its own; no strays;
    fences only rise; each ended claim has a run; who holds one can be released; what is deleted is
    hidden; the counts equal a count; no limit is passed.

    Takes one snapshot, so it may be called while others write.
    """
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        for what, query in (
            ("tasks without exactly one of queue row, final run, own status", OWNERS),
            ("queue rows without a task", STRAY_QUEUE),
            ("runs without a task", STRAY_RUNS),
            ("queue rows whose fence is behind their runs", FENCES),
            ("queue rows with more or fewer runs than ended claims", GAPS),
            ("running tasks whose worker is unknown, or released already", HOLDERS),
            ("tasks that are deleted but not hidden, or hidden but not deleted", HIDDEN),
            ("counts that are not what counting gives", COUNTS),
            ("tasks that wait for others and are not blocked", WAITERS),
            ("more running tasks than their limit lets run", LIMITS),
        ):
            found = [dict(row) for row in await connection.fetch(f"{query} LIMIT 20")]
            assert not found, f"{what}: {found}"
