-- Ask worker $1 to claim no more ($2: why), and wake it. Returns its state; no row: there is no such worker.
WITH asked AS (
    UPDATE workers SET state = 'draining', drained_reason = $2 WHERE id = $1 AND state = 'active'
    RETURNING pg_notify('task_service_worker', id::text)
)
SELECT CASE WHEN state = 'active' THEN 'draining' ELSE state END AS state, (SELECT count(*) FROM asked) AS asked
FROM workers WHERE id = $1
