-- Up to $1 tasks that somebody should let go on: a need of theirs has ended, or they wait no more. Reads all
-- dependencies, and looks up the rest by index whatever the statistics say (EXISTS might be answered by a hash).
SELECT DISTINCT d.task_id
FROM dependencies AS d
WHERE (SELECT true FROM queue AS q WHERE q.task_id = d.needs) IS NULL
    AND (SELECT true FROM tasks AS t WHERE t.id = d.needs AND t.status IN ('pending', 'in_progress')) IS NULL
    OR (SELECT true FROM queue AS q WHERE q.task_id = d.task_id AND q.waits) IS NULL
LIMIT $1::integer
