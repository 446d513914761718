-- Renew the lease of worker $1. No row: it was declared dead. A HOT update: no index has heartbeat_at.
UPDATE workers SET heartbeat_at = clock_timestamp()
WHERE id = $1 AND state <> 'dead'
RETURNING state, drained_reason, ARRAY(
    SELECT task_id FROM queue WHERE worker_id = $1 AND state = 'running' AND cancel_requested_at IS NOT NULL
) AS cancel_requested
