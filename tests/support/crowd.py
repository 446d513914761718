"""Many tasks in every state, for tests of lists and plans."""

import asyncpg

from tests.support.tasks import add_worker

# Kinds of tasks: 1 pending in the queue, 2 scheduled there, 3 held, 4 completed, 5 failed, 6 cancelled by its worker;
# 7 to 11 set by people (7 pending, 8 scheduled, 9 in progress, 10 completed, 11 cancelled). Beyond the first hundred,
# most are completed, and none is held or failed: rare things are what an index must find.
KIND = "CASE WHEN n % 100 < 60 AND n > 11 OR n % 11 IN (2, 4) AND n > 99 THEN 4 ELSE n % 11 + 1 END"
MANY = f"""
    WITH new AS (
        INSERT INTO tasks (
            id, title, status, handler, priority, assigned_to, due_date, tags, queue, run_at, created_at, updated_at
        )
        SELECT
            gen_random_uuid(), 'task ' || n,
            CASE k WHEN 7 THEN 'pending' WHEN 8 THEN 'pending' WHEN 9 THEN 'in_progress' WHEN 10 THEN 'completed'
                WHEN 11 THEN 'cancelled' END,
            CASE WHEN k < 7 THEN 'noop' || n % 7 END, n % 4,
            CASE WHEN n % 3 = 0 THEN 'person ' || n % 50 END,
            CASE WHEN n % 5 = 0 THEN now() + make_interval(hours => n % 1000) END,
            CASE WHEN n % 10 = 0 THEN ARRAY['tag ' || n % 100, 'all'] ELSE '{{}}' END,
            'default', CASE k WHEN 8 THEN now() + interval '1 day' END,
            now() - make_interval(secs => $1 - n), now() - make_interval(secs => n % 977)
        FROM (SELECT n, {KIND} AS k FROM generate_series(1, $1::int) AS n) AS s
        RETURNING id, title
    ),
    kinds AS (
        SELECT id, {KIND} AS k
        FROM (SELECT id, split_part(title, ' ', 2)::int AS n FROM new) AS s
    ),
    queued AS (
        INSERT INTO queue (task_id, queue, priority, run_at, state, worker_id, max_attempts, handler, fence)
        SELECT
            id, 'default', 2, CASE k WHEN 2 THEN now() + interval '1 day' ELSE now() END,
            CASE k WHEN 3 THEN 'running' ELSE 'ready' END, CASE k WHEN 3 THEN $2::uuid END, 5, 'noop', (k = 3)::int
        FROM kinds WHERE k IN (1, 2, 3)
    )
    INSERT INTO runs (task_id, fence, attempt, outcome, final)
    SELECT id, 1, 1, CASE k WHEN 4 THEN 'completed' WHEN 5 THEN 'failed' ELSE 'cancelled' END, true
    FROM kinds WHERE k IN (4, 5, 6)
"""


async def fill(connection: asyncpg.Connection, count: int, *, analyse: bool = True) -> None:
    """Insert so many tasks in every state, and analyse the tables unless their statistics shall stay."""
    await connection.execute(MANY, count, await add_worker(connection))
    for table in ("tasks", "queue", "runs") if analyse else ():
        await connection.execute(f"VACUUM ANALYZE {table}")
