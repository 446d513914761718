-- Note that the task $1 may have ended, for the next sweep, if others wait for it.
INSERT INTO ended_needs (task_id) SELECT $1 WHERE EXISTS (SELECT FROM dependencies WHERE needs = $1)
