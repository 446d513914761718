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
HOLDERS = """
    SELECT q.task_id, q.worker_id FROM queue AS q
    WHERE q.state = 'running' AND NOT EXISTS (SELECT FROM workers AS w WHERE w.id = q.worker_id)
"""


async def check_invariants(connection: asyncpg.Connection) -> None:
    """Assert of all tasks: one of a queue row, a final run and a status of its own; no strays; fences only rise.

    Takes one snapshot, so it may be called while others write.
    """
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        for what, query in (
            ("tasks without exactly one of queue row, final run, own status", OWNERS),
            ("queue rows without a task", STRAY_QUEUE),
            ("runs without a task", STRAY_RUNS),
            ("queue rows whose fence is behind their runs", FENCES),
            ("running tasks whose worker was never registered", HOLDERS),
        ):
            found = [dict(row) for row in await connection.fetch(f"{query} LIMIT 20")]
            assert not found, f"{what}: {found}"
