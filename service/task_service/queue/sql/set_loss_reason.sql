-- Say why worker $1 was lost ($2), when the lease or a successor had found it out first and could not know.
WITH worker AS (
    UPDATE workers SET dead_reason = $2 WHERE id = $1 AND state = 'dead' AND dead_reason = 'unknown'
), explained AS (
    UPDATE runs SET reason = $2 WHERE worker_id = $1 AND outcome = 'lost' AND reason = 'unknown' RETURNING 1
)
SELECT count(*) FROM explained
