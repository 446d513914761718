-- Take up to $4 tasks from worker $1, which is dead or unknown, and put them back or, when they have used up their
-- attempts or keep killing workers, end them as failed.
--
-- $2 reason; $3 whether a started attempt counts; $5 whether the task itself is suspected of the loss; $6 losses after
-- which a task is claimed alone; $7 losses after which it has failed. Rows that somebody has locked are left for the
-- next sweep. A released row's run_at is now: every worker's lower bound lies before it. One under a limit waits for
-- admission again.
--
-- `mine` asks for the worker as a range, in its order, so that only queue_running can serve it: with an equality and
-- statistics of a half-claimed table the planner walks the primary key past every waiting row.
WITH mine AS MATERIALIZED (
    SELECT q.task_id FROM queue AS q
    WHERE q.state = 'running' AND q.worker_id >= $1 AND q.worker_id <= $1
    ORDER BY q.worker_id
    LIMIT $4::integer
),
held AS MATERIALIZED (
    SELECT
        q.task_id, q.fence, q.attempt, q.claimed_at, q.hidden,
        q.started AND $3 AS counts,
        q.losses + CASE WHEN $5 THEN 1 ELSE 0 END AS losses,
        CASE
            WHEN q.alone AND $5 AND q.losses + 1 >= $7::integer THEN 'poison'
            WHEN q.started AND $3 AND q.attempt >= q.max_attempts THEN 'exhausted'
        END AS verdict
    FROM (SELECT task_id FROM mine ORDER BY task_id) AS m
    CROSS JOIN LATERAL (
        SELECT * FROM queue
        WHERE queue.task_id = m.task_id AND queue.worker_id IS NOT DISTINCT FROM $1
        FOR UPDATE SKIP LOCKED
    ) AS q
    WHERE NOT EXISTS (SELECT FROM workers AS w WHERE w.id = $1 AND w.state <> 'dead')
),
ended AS (
    DELETE FROM queue WHERE task_id = ANY (ARRAY(SELECT task_id FROM held WHERE verdict IS NOT NULL))
),
back AS (
    UPDATE queue AS q
    SET state = CASE WHEN q.limited THEN 'blocked' ELSE 'ready' END, worker_id = NULL, claimed_at = NULL, deadline = NULL, started = false,
        run_at = clock_timestamp(), losses = h.losses, alone = h.losses >= $6::integer,
        attempt = CASE WHEN h.counts THEN q.attempt ELSE q.attempt - 1 END
    FROM held AS h
    WHERE q.task_id = ANY (ARRAY(SELECT task_id FROM held WHERE verdict IS NULL)) AND q.task_id = h.task_id
    RETURNING CASE WHEN q.limited THEN '*limits' ELSE q.queue END AS wakes
),
woken AS (
    SELECT pg_notify('task_service_queue', wakes) FROM (SELECT DISTINCT wakes FROM back) AS those
)
INSERT INTO runs (task_id, fence, attempt, worker_id, claimed_at, outcome, reason, final, hidden, error)
SELECT
    task_id, fence, attempt, $1, claimed_at, 'lost', $2, verdict IS NOT NULL, hidden,
    CASE verdict
        WHEN 'poison' THEN 'Put aside: it was running alone when its worker was lost (' || $2 || '), loss ' || losses || '.'
        WHEN 'exhausted' THEN 'The worker was lost (' || $2 || ') on the last attempt.'
    END
FROM held
RETURNING task_id, fence, final, (SELECT count(*) FROM woken) AS woken
