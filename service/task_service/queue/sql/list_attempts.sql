-- The attempts that worker $1 holds. A range in its order, so that only queue_running can serve it (see release.sql).
SELECT task_id, fence FROM queue
WHERE state = 'running' AND worker_id >= $1 AND worker_id <= $1
ORDER BY worker_id
