-- Put tasks that worker $1 holds back into the queue, alive: a retry, a snooze, a release. Those under a limit wait for
-- admission again.
--
-- Arrays of one length, sorted by task id: $2 task ids, $3 fences, $4 outcomes, $5 reasons, $6 errors, $7 seconds until
-- the next attempt, $8 whether this attempt counts. Returns what was given back (see finish.sql for what did not match).
WITH held AS MATERIALIZED (
    SELECT q.task_id, i.fence, q.attempt, q.claimed_at, q.hidden, i.outcome, i.reason, i.error, i.delay, i.counts
    FROM unnest($2::uuid[], $3::bigint[], $4::text[], $5::text[], $6::text[], $7::float8[], $8::boolean[])
        AS i (task_id, fence, outcome, reason, error, delay, counts)
    CROSS JOIN LATERAL (
        SELECT q.task_id, q.attempt, q.claimed_at, q.hidden
        FROM queue AS q
        WHERE q.task_id = i.task_id AND q.worker_id IS NOT DISTINCT FROM $1 AND q.fence = i.fence
        FOR UPDATE
    ) AS q
),
back AS (
    UPDATE queue AS q
    SET state = CASE WHEN q.limited THEN 'blocked' ELSE 'ready' END, worker_id = NULL, claimed_at = NULL, deadline = NULL, started = false,
        run_at = clock_timestamp() + make_interval(secs => h.delay),
        attempt = CASE WHEN h.counts THEN q.attempt ELSE q.attempt - 1 END
    FROM held AS h
    WHERE q.task_id = ANY (ARRAY(SELECT task_id FROM held)) AND q.task_id = h.task_id
)
INSERT INTO runs (task_id, fence, attempt, worker_id, claimed_at, outcome, reason, final, hidden, error)
SELECT task_id, fence, attempt, $1, claimed_at, outcome, reason, false, hidden, error FROM held
RETURNING task_id, fence
