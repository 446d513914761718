-- Workers whose tasks must still be released: dead ones, and ids in the queue that no worker's row has ($1: look for them).
SELECT id AS worker_id, coalesce(dead_reason, 'unknown') AS reason
FROM workers WHERE state = 'dead' AND released_at IS NULL
UNION ALL
SELECT DISTINCT q.worker_id, 'unknown'
FROM queue AS q
WHERE $1 AND q.state = 'running' AND NOT EXISTS (SELECT FROM workers AS w WHERE w.id = q.worker_id)
