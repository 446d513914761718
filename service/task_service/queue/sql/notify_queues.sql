-- Wake the workers of queues $1, and those who admit when something waits there for it.
SELECT pg_notify('task_service_queue', wakes)
FROM (
    SELECT name AS wakes FROM unnest($1::text[]) AS woken (name)
    UNION
    SELECT '*limits' FROM unnest($1::text[]) AS woken (name)
    WHERE EXISTS (SELECT FROM queue AS q WHERE q.state = 'blocked' AND NOT q.waits AND q.queue = woken.name)
) AS those
