-- Let tasks wait that have just entered the queue. Arrays of one length: $1 task ids, $2 what each needs, $3 whether it
-- is cancelled when that does not complete.
--
-- A need that has entered the queue again since its row there was looked for is marked now, unless somebody has locked
-- it: to wait for them could be to wait for each other. Then a sweep finds its end.
WITH needed AS (
    INSERT INTO dependencies (task_id, needs, cancels)
    SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::boolean[])
),
again AS (
    UPDATE queue SET awaited = true
    WHERE task_id = ANY (ARRAY(
        SELECT task_id FROM queue WHERE task_id = ANY ($2::uuid[]) AND NOT awaited FOR UPDATE SKIP LOCKED
    ))
)
UPDATE queue SET state = 'blocked', waits = true WHERE task_id = ANY ($1::uuid[])
