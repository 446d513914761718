-- Give task $1, held by worker $2 under fence $3, until $4 seconds from now. No row: the claim is lost.
UPDATE queue SET deadline = clock_timestamp() + make_interval(secs => $4)
WHERE task_id = $1 AND worker_id IS NOT DISTINCT FROM $2 AND fence = $3
RETURNING deadline
