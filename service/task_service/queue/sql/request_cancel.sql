-- Ask the worker that holds task $1 to cancel it, and wake that worker. No row: nobody holds it.
UPDATE queue SET cancel_requested_at = coalesce(cancel_requested_at, clock_timestamp())
WHERE task_id = $1 AND state = 'running'
RETURNING cancel_requested_at, pg_notify('task_service_worker', worker_id::text)
