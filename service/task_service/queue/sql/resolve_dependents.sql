-- Let the tasks $1, whose waiting rows this transaction has locked, go on as far as their needs have ended: one that
-- needs nothing more is ready, or waits for its limit; one with a need that did not complete is cancelled, if it said
-- so, by a run that names it. Rows of `dependencies` whose task waits no more (it was cancelled or opened again) go too.
-- Returns what was cancelled, and a row without a task.
--
-- A ready row's run_at is now or later: every worker's lower bound lies before it. OFFSET 0 keeps the look-ups by index.
WITH state AS MATERIALIZED (
    SELECT
        d.task_id, d.needs, d.cancels, waiting.waits IS NOT NULL AS waits,
        coalesce(need.status, 'deleted') AS status,
        coalesce(need.status, 'deleted') IN ('pending', 'scheduled', 'processing', 'in_progress') AS is_open
    FROM dependencies AS d
    LEFT JOIN LATERAL (
        SELECT true AS waits FROM queue AS q WHERE q.task_id = d.task_id AND q.waits OFFSET 0
    ) AS waiting ON true
    LEFT JOIN LATERAL (SELECT v.status FROM task_view AS v WHERE v.id = d.needs OFFSET 0) AS need ON true
    WHERE d.task_id = ANY ($1::uuid[])
),
broken AS MATERIALIZED (
    SELECT DISTINCT ON (task_id) task_id, format('the task %s, which it needs, is %s', needs, status) AS why
    FROM state
    WHERE waits AND cancels AND NOT is_open AND status <> 'completed'
    ORDER BY task_id, needs
),
free AS MATERIALIZED (
    SELECT task_id FROM state
    WHERE waits AND task_id NOT IN (SELECT task_id FROM broken)
    GROUP BY task_id
    HAVING NOT bool_or(is_open)
),
over AS (
    DELETE FROM dependencies AS d USING state AS s
    WHERE d.task_id = s.task_id AND d.needs = s.needs AND (NOT s.is_open OR NOT s.waits)
),
cancelled AS (
    DELETE FROM queue AS q USING broken AS b
    WHERE q.task_id = ANY (ARRAY(SELECT task_id FROM broken)) AND q.task_id = b.task_id
    RETURNING q.task_id, q.fence, q.attempt, q.hidden, b.why
),
recorded AS (
    INSERT INTO runs (task_id, fence, attempt, outcome, reason, final, hidden, error)
    SELECT task_id, fence + 1, attempt, 'cancelled', why, true, hidden, why FROM cancelled
),
ready AS (
    UPDATE queue AS q
    SET waits = false, state = CASE WHEN q.limited THEN 'blocked' ELSE 'ready' END,
        run_at = greatest(q.run_at, clock_timestamp())
    WHERE q.task_id = ANY (ARRAY(SELECT task_id FROM free))
    RETURNING CASE WHEN q.limited THEN '*limits' ELSE q.queue END AS wakes
),
woken AS (
    SELECT pg_notify('task_service_queue', wakes) FROM (SELECT DISTINCT wakes FROM ready) AS those
)
SELECT task_id, NULL::bigint AS woken FROM cancelled
UNION ALL
SELECT NULL, (SELECT count(*) FROM woken)
