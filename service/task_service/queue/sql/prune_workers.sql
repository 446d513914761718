-- Forget workers that died and were released more than $1 seconds ago.
DELETE FROM workers
WHERE dead_at < clock_timestamp() - make_interval(secs => $1) AND released_at IS NOT NULL
