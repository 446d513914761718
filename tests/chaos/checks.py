"""Invariants after a chaos run, as queries that find violations in the database."""

import asyncpg

TASKS_NOT_ONCE = """
    SELECT n, count(t.id) AS times
    FROM chaos_plan AS p CROSS JOIN LATERAL generate_series(1, p.tasks) AS n
    LEFT JOIN tasks AS t ON t.title = 'chaos ' || n
    GROUP BY n HAVING count(t.id) <> 1
"""
TIMES_NOT_ONCE = """
    WITH due AS (
        SELECT generate_series(
            date_trunc('minute', created_at + interval '1 minute'),
            next_run_at - interval '1 minute', '1 minute'
        ) AS at
        FROM schedules WHERE name = 'chaos'
    ),
    made AS (
        SELECT (payload ->> 'scheduled_for')::timestamptz AS at, created_at
        FROM tasks WHERE title = 'scheduled'
    )
    SELECT at, count(created_at) AS times, min(created_at) AS first
    FROM due FULL JOIN made USING (at)
    GROUP BY at
    HAVING count(created_at) <> 1 OR min(created_at) < at OR bool_or(due.at IS NULL)
"""
LEFT_IN_QUEUE = (
    "SELECT task_id, handler, state, alone, attempt, fence, worker_id, run_at FROM queue"
)
NOT_ONE_END = """
    SELECT t.id, t.handler, count(r.task_id) AS ends
    FROM tasks AS t LEFT JOIN runs AS r ON r.task_id = t.id AND r.final
    WHERE t.handler IS NOT NULL
    GROUP BY t.id HAVING count(r.task_id) <> 1
"""
FENCES_WITH_GAPS = """
    SELECT task_id, array_agg(fence ORDER BY fence) AS fences
    FROM runs GROUP BY task_id HAVING min(fence) <> 1 OR max(fence) <> count(*)
"""
END_OVERTAKEN = """
    SELECT r.task_id, r.fence, r.outcome FROM runs AS r
    WHERE r.final AND EXISTS (
        SELECT FROM runs AS later WHERE later.task_id = r.task_id AND later.fence > r.fence
    )
"""
CLAIMS_AT_ONCE = """
    SELECT r.task_id, r.fence, r.finished_at, later.fence AS later_fence, later.claimed_at
    FROM runs AS r
    JOIN runs AS later ON later.task_id = r.task_id AND later.fence = r.fence + 1
    WHERE later.claimed_at < r.finished_at
"""
REPORTED_BY_THE_DEAD = """
    SELECT r.task_id, r.fence, r.outcome, r.worker_id
    FROM runs AS r JOIN workers AS w ON w.id = r.worker_id
    WHERE r.outcome <> 'lost' AND r.finished_at > w.released_at
"""
TAKEN_FROM_THE_LIVING = """
    SELECT r.task_id, r.fence, r.worker_id
    FROM runs AS r LEFT JOIN workers AS w ON w.id = r.worker_id
    WHERE w.id IS NULL
        OR r.outcome = 'lost' AND (w.dead_at IS NULL OR w.dead_at > r.finished_at)
"""
DEAD_BEFORE_THEIR_TIME = """
    SELECT w.id, w.heartbeat_at, w.dead_at FROM workers AS w
    WHERE w.dead_reason = 'unknown'
        AND w.dead_at < w.heartbeat_at + make_interval(secs => w.lease_seconds)
        AND NOT EXISTS (
            SELECT FROM workers AS s
            WHERE s.host = w.host AND s.slot = w.slot AND s.id <> w.id
                AND s.registered_at <= w.dead_at AND s.registered_at >= w.registered_at
        )
"""
EFFECTS_WITHOUT_CLAIM = """
    SELECT e.task_id, e.fence, e.worker_id, e.at
    FROM effects AS e LEFT JOIN runs AS r USING (task_id, fence, worker_id)
    WHERE r.task_id IS NULL OR e.at NOT BETWEEN r.claimed_at AND r.finished_at
"""
EFFECTS_NOT_ONCE = """
    SELECT
        t.id, r.outcome, r.fence,
        array_agg(e.fence) FILTER (WHERE e.fence IS NOT NULL) AS effects
    FROM tasks AS t
    JOIN runs AS r ON r.task_id = t.id AND r.final
    LEFT JOIN effects AS e ON e.task_id = t.id
    WHERE t.handler = 'complete'
    GROUP BY t.id, r.outcome, r.fence
    HAVING array_agg(e.fence) FILTER (WHERE e.fence IS NOT NULL)
        IS DISTINCT FROM CASE WHEN r.outcome = 'completed' THEN ARRAY[r.fence] END
"""
ENDED_WITHOUT_EFFECT = """
    SELECT t.id, r.fence
    FROM tasks AS t
    JOIN runs AS r ON r.task_id = t.id AND r.final AND r.outcome = 'completed'
    WHERE t.handler = 'write' AND (
        SELECT count(*) FROM effects AS e WHERE e.task_id = t.id AND e.fence = r.fence
    ) <> 1
"""
WRONG_ENDS = """
    SELECT t.id, t.handler, r.outcome, r.reason, r.attempt, r.fence, r.error
    FROM tasks AS t JOIN runs AS r ON r.task_id = t.id AND r.final
    WHERE t.handler IS NOT NULL AND NOT CASE
        WHEN r.outcome = 'lost' THEN coalesce(r.error, '') LIKE 'Put aside:%'
        WHEN t.handler = 'fail' THEN r.outcome = 'failed' AND r.attempt = t.max_attempts
        ELSE r.outcome = 'completed'
            AND r.attempt >= CASE WHEN t.handler IN ('flaky', 'retry') THEN 2 ELSE 1 END
            AND r.fence >= CASE WHEN t.handler IN ('flaky', 'retry', 'snooze') THEN 2 ELSE 1 END
    END
"""
RUNS_WITHOUT_CLAIM = """
    SELECT n.task_id, n.fence, n.process, n.worker_id
    FROM chaos_events AS n LEFT JOIN runs AS r USING (task_id, fence, worker_id)
    WHERE r.task_id IS NULL
"""
STARTED_TOO_LATE = """
    SELECT n.task_id, n.fence, n.process, n.at, r.finished_at, r.outcome
    FROM chaos_events AS n JOIN runs AS r USING (task_id, fence, worker_id)
    WHERE n.event = 'start' AND n.at > r.finished_at AND NOT EXISTS (
        SELECT FROM chaos_faults AS f
        WHERE f.kind IN ('stop', 'machine') AND (f.process = n.process OR f.process IS NULL)
            AND f.began <= n.at AND f.ended >= r.claimed_at
    )
"""
OVERLAPS_WITHOUT_CAUSE = "SELECT * FROM chaos_overlaps WHERE cause IS NULL"
ISOLATED_OVERLAPS = """
    SELECT o.* FROM chaos_overlaps AS o JOIN tasks AS t ON t.id = o.task_id
    WHERE t.handler = 'isolated'
"""
WORKERS_LEFT = "SELECT id, state, slot, heartbeat_at FROM workers WHERE released_at IS NULL"
WRONG_COUNTERS = """
    WITH counted AS (
        SELECT 'priority' AS dimension, priority::text AS value, count(*) AS number
        FROM tasks WHERE deleted_at IS NULL GROUP BY 2
        UNION ALL
        SELECT 'own', status, count(*)
        FROM tasks WHERE deleted_at IS NULL AND status IS NOT NULL GROUP BY 2
        UNION ALL
        SELECT 'run', status_of_outcome(outcome), count(*)
        FROM runs WHERE final AND NOT hidden GROUP BY 2
        UNION ALL
        SELECT 'queue', queue, count(*) FROM queue GROUP BY 2
    ),
    stored AS (
        SELECT dimension, value, sum(number) AS number
        FROM (
            SELECT * FROM task_counts UNION ALL SELECT dimension, value, number FROM task_deltas
        ) AS parts
        GROUP BY 1, 2 HAVING sum(number) <> 0
    )
    SELECT dimension, value, counted.number AS counted, stored.number AS stored
    FROM counted FULL JOIN stored USING (dimension, value)
    WHERE counted.number IS DISTINCT FROM stored.number
"""
CHECKS = {
    "tasks that were not created exactly once": TASKS_NOT_ONCE,
    "times of the schedule that did not run exactly once, or ran too early": TIMES_NOT_ONCE,
    "tasks left in the queue": LEFT_IN_QUEUE,
    "tasks that did not end exactly once": NOT_ONE_END,
    "tasks with a claim without an end, or an end without a claim": FENCES_WITH_GAPS,
    "final runs with a fence below another one": END_OVERTAKEN,
    "overlapping claims of one task": CLAIMS_AT_ONCE,
    "ends reported by a worker after its tasks were released": REPORTED_BY_THE_DEAD,
    "tasks taken from a worker that was alive or never registered": TAKEN_FROM_THE_LIVING,
    "workers declared dead before their lease expired": DEAD_BEFORE_THEIR_TIME,
    "effects outside a valid claim": EFFECTS_WITHOUT_CLAIM,
    "completions in a transaction without exactly one effect": EFFECTS_NOT_ONCE,
    "completions without an effect under their fence": ENDED_WITHOUT_EFFECT,
    "outcomes that the handler cannot have": WRONG_ENDS,
    "runs without a claim": RUNS_WITHOUT_CLAIM,
    "runs that started after the loss of their claim without a stop": STARTED_TOO_LATE,
    "overlapping runs whose older worker was not stopped or disconnected": OVERLAPS_WITHOUT_CAUSE,
    "overlapping runs of isolated handlers": ISOLATED_OVERLAPS,
    "workers that are not dead and released": WORKERS_LEFT,
    "counters that differ from a count of the rows": WRONG_COUNTERS,
}
"""Violations, and the queries that find them after all processes have ended."""
MAX_ROWS = 20


async def find_broken(connection: asyncpg.Connection) -> dict[str, list[dict[str, object]]]:
    """Return the violations with up to 20 rows each; empty if no invariant is broken."""
    violations: dict[str, list[dict[str, object]]] = {}
    for check, query in CHECKS.items():
        if rows := await connection.fetch(f"SELECT * FROM ({query}) AS wrong LIMIT {MAX_ROWS}"):
            violations[check] = [dict(row) for row in rows]
    return violations
