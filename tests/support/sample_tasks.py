"""Many tasks in every state, for tests of lists and query plans."""

import asyncpg

from tests.support.tasks import add_worker

# Kinds 1 to 6 are tasks for workers: pending, scheduled, running, completed, failed, cancelled.
# Kinds 7 to 11 are manual tasks: pending, scheduled, in progress, completed, cancelled.
# After the first hundred, most tasks are completed and none is running or failed: an index must
# find rare rows.
KIND = """
    CASE
        WHEN n % 100 < 60 AND n > 11 OR n % 11 IN (2, 4) AND n > 99 THEN 4
        ELSE n % 11 + 1
    END
"""
INSERT_TASKS = f"""
    WITH new AS (
        INSERT INTO tasks (
            id, title, status, handler, priority, assigned_to, due_date, tags, queue, run_at,
            created_at, updated_at
        )
        SELECT
            gen_random_uuid(), 'task ' || n,
            CASE k
                WHEN 7 THEN 'pending' WHEN 8 THEN 'pending' WHEN 9 THEN 'in_progress'
                WHEN 10 THEN 'completed' WHEN 11 THEN 'cancelled'
            END,
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
        INSERT INTO queue (
            task_id, queue, priority, run_at, state, worker_id, max_attempts, handler, fence
        )
        SELECT
            id, 'default', 2, CASE k WHEN 2 THEN now() + interval '1 day' ELSE now() END,
            CASE k WHEN 3 THEN 'running' ELSE 'ready' END, CASE k WHEN 3 THEN $2::uuid END, 5,
            'noop', (k = 3)::int
        FROM kinds WHERE k IN (1, 2, 3)
    )
    INSERT INTO runs (task_id, fence, attempt, outcome, final)
    SELECT
        id, 1, 1, CASE k WHEN 4 THEN 'completed' WHEN 5 THEN 'failed' ELSE 'cancelled' END, true
    FROM kinds WHERE k IN (4, 5, 6)
"""


async def insert_sample_tasks(
    connection: asyncpg.Connection, count: int, *, analyze: bool = True
) -> None:
    """Insert `count` tasks in every state, and update the statistics if `analyze`."""
    await connection.execute(INSERT_TASKS, count, await add_worker(connection))
    for table in ("tasks", "queue", "runs") if analyze else ():
        await connection.execute(f"VACUUM ANALYZE {table}")
