-- Declare dead whose lease is over; but not within one lease of the server's start: after an outage every lease looks
-- over. A worker that is claiming or renewing at this moment is locked, alive, and skipped.
WITH expired AS MATERIALIZED (
    SELECT id FROM workers
    WHERE state <> 'dead'
        AND heartbeat_at < clock_timestamp() - make_interval(secs => lease_seconds)
        AND pg_postmaster_start_time() < clock_timestamp() - make_interval(secs => lease_seconds)
    FOR UPDATE SKIP LOCKED
)
UPDATE workers SET state = 'dead', dead_at = clock_timestamp(), dead_reason = 'unknown'
WHERE id = ANY (ARRAY(SELECT id FROM expired))
RETURNING id
