-- Change how task $1 is to run, unless a worker holds it: $2 queue, $3 priority, $4 run_at (null or past: now), $5
-- max_attempts, $6 timeout, $7 handler; $8 whether to wake the queue. No row: it is held, or not in the queue.
UPDATE queue
SET queue = $2, priority = $3, run_at = greatest($4, clock_timestamp()), max_attempts = $5, timeout_seconds = $6,
    handler = $7
WHERE task_id = $1 AND state <> 'running'
RETURNING CASE WHEN $8 THEN pg_notify('task_service_queue', queue)::text END AS woken
