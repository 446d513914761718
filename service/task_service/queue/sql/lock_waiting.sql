-- Lock the waiting rows of the tasks $1: of two that let the same task go on, the second must see what the first did.
SELECT FROM queue WHERE task_id = ANY ($1::uuid[]) AND waits ORDER BY task_id FOR UPDATE
