-- Fold up to $1 of the oldest changes of numbers into the numbers. One folder at a time: others do nothing. Returns how
-- many were folded.
WITH turn AS MATERIALIZED (
    SELECT pg_try_advisory_xact_lock(7305612448002) AS ours
),
folded AS (
    DELETE FROM task_deltas
    WHERE id = ANY (ARRAY(SELECT id FROM task_deltas WHERE (SELECT ours FROM turn) ORDER BY id LIMIT $1::integer))
    RETURNING dimension, value, number
),
sums AS MATERIALIZED (
    SELECT dimension, value, sum(number) AS number FROM folded GROUP BY dimension, value
),
counted AS (
    INSERT INTO task_counts AS c (dimension, value, number)
    SELECT dimension, value, number FROM sums
    ON CONFLICT (dimension, value) DO UPDATE SET number = c.number + excluded.number
),
cleared AS (
    DELETE FROM task_counts AS c
    WHERE c.number = 0 AND NOT EXISTS (SELECT FROM sums WHERE sums.dimension = c.dimension AND sums.value = c.value)
        AND (SELECT ours FROM turn)
)
SELECT count(*) FROM folded
