-- Note that nothing of dead worker $1 is left in the queue. No row: something is, or it is not dead.
UPDATE workers SET released_at = clock_timestamp()
WHERE id = $1 AND state = 'dead' AND released_at IS NULL
    AND NOT EXISTS (SELECT FROM queue WHERE worker_id = $1 AND state = 'running')
RETURNING id
