-- Note how far the attempts are that worker $1 holds. A HOT update: no index has a column of it.
--
-- Arrays of one length, sorted by task id: $2 task ids, $3 fences, $4 fractions, $5 notes. Returns what was noted; what a
-- handler's own transaction has locked is left for the next time. The view shows it while the claim lasts under which it
-- was said (`progress_at >= claimed_at`), so that neither a claim nor a release has to clear it.
WITH held AS MATERIALIZED (
    SELECT q.task_id, i.fence, i.fraction, i.note
    FROM unnest($2::uuid[], $3::bigint[], $4::float8[], $5::text[]) AS i (task_id, fence, fraction, note)
    CROSS JOIN LATERAL (
        SELECT q.task_id
        FROM queue AS q
        WHERE q.task_id = i.task_id AND q.worker_id IS NOT DISTINCT FROM $1 AND q.fence = i.fence
        FOR UPDATE SKIP LOCKED
    ) AS q
)
UPDATE queue AS q
SET progress = h.fraction, progress_note = h.note, progress_at = clock_timestamp()
FROM held AS h
WHERE q.task_id = ANY (ARRAY(SELECT task_id FROM held)) AND q.task_id = h.task_id
RETURNING q.task_id, q.fence
