-- Let tasks wait that have just entered the queue. Arrays of one length: $1 task ids, $2 what each needs, $3 whether it
-- is cancelled when that does not complete.
WITH needed AS (
    INSERT INTO dependencies (task_id, needs, cancels)
    SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::boolean[])
)
UPDATE queue SET state = 'blocked', waits = true WHERE task_id = ANY ($1::uuid[])
