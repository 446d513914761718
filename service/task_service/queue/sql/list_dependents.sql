-- The tasks that wait for one of $1.
SELECT DISTINCT task_id FROM dependencies WHERE needs = ANY ($1::uuid[])
