-- Lock the queue row of task $1, before its row in `tasks`. No row: no worker has to run it.
SELECT task_id, queue, priority, run_at, state, attempt, fence, worker_id, claimed_at, cancel_requested_at, handler
FROM queue WHERE task_id = $1 FOR UPDATE
