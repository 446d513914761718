-- Worker processes: living ones, and those that died within the last hour.
SELECT
    w.id, w.state, w.pod_name, w.pod_uid, w.container, w.slot, w.node, w.version, w.queues, w.concurrency,
    w.process_started_at, w.registered_at, w.heartbeat_at,
    w.heartbeat_at + make_interval(secs => w.lease_seconds) AS lease_expires_at,
    w.dead_at, w.dead_reason,
    (SELECT count(*) FROM queue AS q WHERE q.worker_id = w.id AND q.state = 'running') AS running
FROM workers AS w
WHERE w.state <> 'dead' OR w.dead_at > clock_timestamp() - interval '1 hour'
ORDER BY w.registered_at
LIMIT 1000
