-- Lock the waiting rows of the tasks $1, in one order. Of two that let the same task go on, the second then finds that it
-- waits no more.
SELECT FROM queue WHERE task_id = ANY ($1::uuid[]) AND waits ORDER BY task_id FOR UPDATE
