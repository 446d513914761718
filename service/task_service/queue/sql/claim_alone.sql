-- Claim one task that must run alone (it may have killed its workers), for worker $1.
-- Paused queues are left out, see claim.sql.
--
-- $2 queues text[]; $3 how long the task must have waited, in seconds: a worker that is busy leaves it to idle ones.
WITH me AS MATERIALIZED (
    SELECT id FROM workers WHERE id = $1 AND state = 'active' FOR KEY SHARE
),
candidates AS MATERIALIZED (
    SELECT candidate.task_id
    FROM me
    CROSS JOIN unnest($2::text[]) AS line (queue)
    CROSS JOIN LATERAL (
        SELECT q.task_id
        FROM queue AS q
        WHERE q.state = 'ready' AND q.alone AND q.queue = line.queue
            AND q.run_at <= now() - make_interval(secs => $3)
        ORDER BY q.run_at
        LIMIT 1
        FOR UPDATE SKIP LOCKED
    ) AS candidate
    WHERE line.queue <> ALL (ARRAY(SELECT name FROM paused_queues))
    LIMIT 1
),
claimed AS (
    UPDATE queue AS q
    SET state = 'running', worker_id = $1, fence = q.fence + 1, attempt = q.attempt + 1, started = true,
        claimed_at = clock_timestamp(),
        deadline = clock_timestamp() + make_interval(secs => q.timeout_seconds)
    WHERE q.task_id = ANY (ARRAY(SELECT task_id FROM candidates))
    RETURNING q.*
)
SELECT
    c.task_id, c.fence, c.attempt, c.max_attempts, c.timeout_seconds, c.handler, c.queue, c.priority,
    date_part('epoch', c.run_at) AS run_at, date_part('epoch', c.claimed_at - c.run_at) AS waited,
    c.alone, c.cancel_requested_at IS NOT NULL AS cancel_requested, c.trace_context, c.limited,
    (SELECT payload FROM tasks WHERE tasks.id = c.task_id) AS payload
FROM claimed AS c
