-- Worker process $1, whenever it died, and whether its lease is over. No row: nobody registered it, or it is forgotten.
SELECT
    w.id, w.state, w.pod_name, w.pod_uid, w.container, w.slot, w.node, w.version, w.queues, w.concurrency,
    w.process_started_at, w.registered_at, w.heartbeat_at,
    w.heartbeat_at + make_interval(secs => w.lease_seconds) AS lease_expires_at,
    w.dead_at, w.dead_reason,
    (SELECT count(*) FROM queue AS q WHERE q.worker_id = w.id AND q.state = 'running') AS running,
    w.state = 'dead' OR w.heartbeat_at < clock_timestamp() - make_interval(secs => w.lease_seconds) AS expired
FROM workers AS w
WHERE w.id = $1
