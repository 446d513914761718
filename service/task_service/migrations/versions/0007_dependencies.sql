-- What a blocked row of the queue still waits for: one row for each needed task that has not ended. `cancels`: if that
-- one does not complete, the task is cancelled.
CREATE TABLE dependencies (
    task_id uuid NOT NULL,
    needs uuid NOT NULL,
    cancels boolean NOT NULL,
    PRIMARY KEY (task_id, needs)
);
CREATE INDEX dependencies_needs ON dependencies (needs);

-- Needed tasks that people have ended, for the next sweep.
CREATE TABLE ended_needs (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    task_id uuid NOT NULL
);

-- Whether others may wait for it, so that only the end of such a task is looked at. No index has it.
ALTER TABLE queue ADD COLUMN awaited boolean NOT NULL DEFAULT false;

-- As before, with the needed tasks that a blocked one still waits for.
CREATE OR REPLACE VIEW task_view AS
SELECT
    t.id, t.number, t.title, t.description,
    CASE
        WHEN q.state = 'running' THEN 'processing'
        WHEN q.task_id IS NOT NULL AND q.run_at > statement_timestamp() THEN 'scheduled'
        WHEN q.task_id IS NOT NULL THEN 'pending'
        WHEN t.status = 'pending' AND t.run_at > statement_timestamp() THEN 'scheduled'
        WHEN t.status IS NOT NULL THEN t.status
        WHEN r.outcome = 'completed' THEN 'completed'
        WHEN r.outcome = 'cancelled' THEN 'cancelled'
        ELSE 'failed'
    END AS status,
    t.priority, t.assigned_to, t.due_date, t.tags, t.handler, t.payload, t.queue,
    COALESCE(q.run_at, t.run_at) AS run_at,
    t.max_attempts, t.timeout_seconds,
    COALESCE(q.attempt, r.attempt, 0) AS attempt,
    COALESCE(q.fence, r.fence, 0) AS fence,
    r.result, r.error, r.outcome, r.reason,
    t.created_by, t.created_at, t.updated_at, t.deleted_at,
    CASE
        WHEN q.task_id IS NOT NULL OR t.status IN ('pending', 'in_progress') THEN NULL
        WHEN t.status IS NOT NULL THEN t.status_at
        ELSE r.finished_at
    END AS processed_at,
    COALESCE(q.worker_id, CASE WHEN q.task_id IS NULL AND t.status IS NULL THEN r.worker_id END)
        AS processing_instance_id,
    q.claimed_at, q.cancel_requested_at,
    (SELECT count(*) FROM conversations AS c WHERE c.task_id = t.id) AS conversation_count,
    t.version,
    t.stamp,
    CASE WHEN q.progress_at >= q.claimed_at THEN q.progress END AS progress,
    CASE WHEN q.progress_at >= q.claimed_at THEN q.progress_note END AS progress_note,
    CASE WHEN q.progress_at >= q.claimed_at THEN q.progress_at END AS progress_at,
    CASE
        WHEN q.state = 'blocked' THEN ARRAY(SELECT needs FROM dependencies AS d WHERE d.task_id = t.id ORDER BY needs)
        ELSE '{}'
    END AS waits_for
FROM tasks AS t
LEFT JOIN queue AS q ON q.task_id = t.id
LEFT JOIN LATERAL (
    SELECT * FROM runs WHERE runs.task_id = t.id ORDER BY fence DESC LIMIT 1
) AS r ON true;
