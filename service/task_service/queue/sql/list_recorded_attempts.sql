-- Which of these attempts of worker $1 ($2 task ids, $3 fences) are recorded already? Then an answer was lost, not a claim.
SELECT r.task_id, r.fence
FROM unnest($2::uuid[], $3::bigint[]) AS i (task_id, fence)
CROSS JOIN LATERAL (
    SELECT task_id, fence FROM runs
    WHERE runs.task_id = i.task_id AND runs.fence = i.fence AND runs.worker_id IS NOT DISTINCT FROM $1
        AND runs.outcome <> 'lost'
) AS r
