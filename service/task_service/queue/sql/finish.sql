-- End attempts that worker $1 holds: delete the queue rows and record the final runs.
--
-- Arrays, sorted by task id: $2 task ids, $3 fences, $4 outcomes, $5 reasons, $6 results (jsonb as text), $7 errors; the
-- last three may be empty, for nulls. Returns only what there is more to do about: ended tasks that others may wait for,
-- and pairs that were not ours, a claim that was lost, or an answer that was (see list_recorded_attempts.sql). LATERAL and
-- = ANY (ARRAY(…)) keep the plan to index look-ups, whatever the statistics say.
WITH held AS MATERIALIZED (
    SELECT q.task_id, i.fence, q.attempt, q.claimed_at, q.hidden, q.awaited, i.outcome, i.reason, i.result, i.error
    FROM unnest($2::uuid[], $3::bigint[], $4::text[], $5::text[], $6::text[], $7::text[])
        AS i (task_id, fence, outcome, reason, result, error)
    CROSS JOIN LATERAL (
        SELECT q.task_id, q.attempt, q.claimed_at, q.hidden, q.awaited
        FROM queue AS q
        WHERE q.task_id = i.task_id AND q.worker_id IS NOT DISTINCT FROM $1 AND q.fence = i.fence
        FOR UPDATE
    ) AS q
),
ended AS (
    DELETE FROM queue WHERE task_id = ANY (ARRAY(SELECT task_id FROM held))
),
recorded AS (
    INSERT INTO runs (task_id, fence, attempt, worker_id, claimed_at, outcome, reason, final, hidden, result, error)
    SELECT task_id, fence, attempt, $1, claimed_at, outcome, reason, true, hidden, result::jsonb, error FROM held
)
SELECT task_id, fence, false AS lost FROM held WHERE awaited
UNION ALL
SELECT i.task_id, i.fence, true
FROM unnest($2::uuid[], $3::bigint[]) AS i (task_id, fence)
WHERE (SELECT count(*) FROM held) < cardinality($2::uuid[])
    AND NOT EXISTS (SELECT FROM held WHERE held.task_id = i.task_id AND held.fence = i.fence)
