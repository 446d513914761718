-- Take up to $1 of the notes of needed tasks that have ended.
DELETE FROM ended_needs
WHERE id = ANY (ARRAY(SELECT id FROM ended_needs ORDER BY id LIMIT $1::integer FOR UPDATE SKIP LOCKED))
RETURNING task_id
