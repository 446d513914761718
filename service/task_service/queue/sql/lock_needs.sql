-- Lock the tasks $1 after their rows in the queue, so that nobody changes their status or removes them before the
-- transaction ends. Returns those that are there.
SELECT id FROM tasks WHERE id = ANY ($1::uuid[]) AND deleted_at IS NULL ORDER BY id FOR SHARE
