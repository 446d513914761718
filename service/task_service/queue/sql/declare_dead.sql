-- Declare worker $1 dead ($2: why). FOR UPDATE waits for a claim that is under way (it holds KEY SHARE); after this
-- statement the worker can claim nothing. Its tasks are released by a later statement, which therefore sees all of them.
WITH worker AS MATERIALIZED (
    SELECT id FROM workers WHERE id = $1 AND state <> 'dead' FOR UPDATE
)
UPDATE workers SET state = 'dead', dead_at = clock_timestamp(), dead_reason = $2
WHERE id = ANY (ARRAY(SELECT id FROM worker))
RETURNING id
