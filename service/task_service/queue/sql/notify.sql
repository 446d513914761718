-- Wake the workers of queues $1.
SELECT pg_notify('task_service_queue', name) FROM unnest($1::text[]) AS woken (name)
