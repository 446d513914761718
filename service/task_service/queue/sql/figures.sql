-- The queue in figures: one row per queue.
SELECT
    queue AS name,
    count(*) FILTER (WHERE state = 'ready' AND run_at <= clock_timestamp()) AS ready,
    count(*) FILTER (WHERE state = 'ready' AND run_at > clock_timestamp()) AS scheduled,
    count(*) FILTER (WHERE state = 'running') AS running,
    count(*) FILTER (WHERE state = 'blocked') AS blocked,
    coalesce(extract(epoch FROM clock_timestamp() - min(run_at) FILTER (
        WHERE state = 'ready' AND run_at <= clock_timestamp()
    )), 0)::float8 AS oldest_age_seconds
FROM queue
GROUP BY queue
ORDER BY queue
