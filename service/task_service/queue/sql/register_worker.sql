-- Enter a worker process. Returns its predecessors: processes of the same host and slot that are not released yet.
WITH entered AS (
    INSERT INTO workers (
        id, host, pod_name, pod_uid, container, slot, node, version, queues, concurrency, lease_seconds, process_started_at
    )
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
)
SELECT id FROM workers WHERE host = $2 AND slot = $6 AND released_at IS NULL AND id <> $1
