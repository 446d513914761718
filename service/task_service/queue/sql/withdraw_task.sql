-- Take task $1 out of the queue unless a worker holds it.
DELETE FROM queue WHERE task_id = $1 AND state <> 'running' RETURNING fence
