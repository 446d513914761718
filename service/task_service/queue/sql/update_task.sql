-- Change how task $1 is to run, unless a worker holds it: $2 queue, $3 priority, $4 run_at (null or past: now; the one it
-- has: it keeps its place), $5 max_attempts, $6 timeout, $7 handler; $8 whether to wake the queue, $9 whether it starts
-- anew: with all its attempts, and without a cancel that a worker did not get to. No row: it is held, or not in the queue.
-- Another queue is counted here, since updates have no trigger. Under a limit the row waits for admission anew.
WITH present AS MATERIALIZED (
    SELECT
        task_id, queue,
        limit_key IS NOT NULL OR EXISTS (SELECT FROM limited_queues AS l WHERE l.name = $2) AS limited
    FROM queue WHERE task_id = $1 AND state <> 'running' FOR UPDATE
),
moved AS (
    INSERT INTO task_deltas (dimension, value, number)
    SELECT 'queue', name, number FROM present, LATERAL (VALUES (queue, -1), ($2, 1)) AS change (name, number)
    WHERE queue <> $2
)
UPDATE queue AS q
SET limited = p.limited, state = CASE WHEN p.limited OR q.waits THEN 'blocked' ELSE 'ready' END,
    queue = $2, priority = $3, max_attempts = $5, timeout_seconds = $6, handler = $7,
    run_at = CASE WHEN q.run_at = $4 THEN q.run_at ELSE greatest($4, clock_timestamp()) END,
    attempt = CASE WHEN $9 THEN 0 ELSE q.attempt END,
    losses = CASE WHEN $9 THEN 0 ELSE q.losses END,
    alone = q.alone AND NOT $9,
    cancel_requested_at = CASE WHEN NOT $9 THEN q.cancel_requested_at END
FROM present AS p
WHERE q.task_id = $1 AND p.task_id = q.task_id
RETURNING CASE WHEN $8 THEN pg_notify('task_service_queue', CASE WHEN q.limited THEN '*limits' ELSE q.queue END)::text END AS woken
