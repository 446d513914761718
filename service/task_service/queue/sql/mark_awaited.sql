-- The task $1 has entered the queue again: others may wait for it.
UPDATE queue SET awaited = true WHERE task_id = $1 AND EXISTS (SELECT FROM dependencies WHERE needs = $1)
