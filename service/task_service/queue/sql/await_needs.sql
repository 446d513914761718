-- Mark the queue rows of the tasks $1, so that their end is told to those who wait for it, and lock them until the
-- transaction ends. Whoever is ending one is waited for; whether it is still open is asked by a later statement.
WITH locked AS MATERIALIZED (
    SELECT task_id FROM queue WHERE task_id = ANY ($1::uuid[]) ORDER BY task_id FOR UPDATE
)
UPDATE queue SET awaited = true WHERE task_id = ANY (ARRAY(SELECT task_id FROM locked)) AND NOT awaited
