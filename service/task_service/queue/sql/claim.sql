-- Claim up to $5 tasks for worker $1, best priority first and oldest first within it.
--
-- $1 worker uuid; $2 queues text[], $3 priorities smallint[], $4 run_at from, in seconds since 1970, float8[]: one line
-- per queue and priority, in the order in which they are served; $5 limit; $6 whether they start at once (false: some
-- are prefetched); $7 the turn that must be free, or null.
--
-- A claim visits every row that others took since it began to look, so many at a time make each other slow, and one that
-- stands for a moment walks over all that is taken meanwhile. Hence turns: locks that the end of the claim frees. Where
-- the turn is another one's, nothing is claimed, and one row of nulls says so.
-- Our own worker's row is locked first (KEY SHARE: heartbeats pass, a declaration of death waits for us). A worker that
-- is not active claims nothing. Only queue_ready can serve the inner select; rows that others have locked are skipped.
-- Lines of paused queues are left out by a list that is read once (a join could change the lines' order).
WITH turn AS MATERIALIZED (
    SELECT $7::integer IS NULL OR pg_try_advisory_xact_lock(7305612, $7) AS ours
),
me AS MATERIALIZED (
    SELECT id FROM workers WHERE id = $1 AND state = 'active' AND (SELECT ours FROM turn) FOR KEY SHARE
),
candidates AS MATERIALIZED (
    SELECT candidate.task_id
    FROM me
    CROSS JOIN unnest($2::text[], $3::smallint[], $4::float8[]) AS line (queue, priority, since)
    CROSS JOIN LATERAL (
        SELECT q.task_id
        FROM queue AS q
        WHERE q.state = 'ready' AND NOT q.alone
            AND q.queue = line.queue AND q.priority = line.priority
            AND q.run_at >= to_timestamp(line.since) AND q.run_at <= now()
        ORDER BY q.run_at
        LIMIT $5::integer
        FOR UPDATE SKIP LOCKED
    ) AS candidate
    WHERE line.queue <> ALL (ARRAY(SELECT name FROM paused_queues))
    LIMIT $5::integer
),
claimed AS (
    UPDATE queue AS q
    SET state = 'running', worker_id = $1, fence = q.fence + 1, attempt = q.attempt + 1, started = $6,
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
UNION ALL
SELECT null, null, null, null, null, null, null, null, null, null, null, null, null, null, null
FROM turn
WHERE NOT ours
