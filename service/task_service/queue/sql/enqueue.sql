-- Enter tasks into the queue, in the caller's transaction. Arrays of one length: $1 task ids, $2 queues, $3 priorities,
-- $4 run_at (null or past: now), $5 max_attempts, $6 timeouts, $7 handlers, $8 fences so far, $9 limit keys, $10 trace
-- contexts; the last two may be empty, for nulls. $11: queues to wake inside this transaction. clock_timestamp() gives each
-- row a run_at of its own: claims walk on from the last one. A row with a limit key, or in a queue that has a limit, waits
-- to be admitted (see admit.sql).
WITH entered AS (
    INSERT INTO queue (
        task_id, queue, priority, run_at, max_attempts, timeout_seconds, handler, fence, limit_key, trace_context,
        limited, state
    )
    SELECT
        i.task_id, i.queue, i.priority, greatest(i.run_at, clock_timestamp()), i.max_attempts, i.timeout_seconds,
        i.handler, i.fence, i.limit_key, i.trace_context,
        l.limited, CASE WHEN l.limited THEN 'blocked' ELSE 'ready' END
    FROM unnest(
        $1::uuid[], $2::text[], $3::smallint[], $4::timestamptz[], $5::smallint[], $6::integer[], $7::text[],
        $8::bigint[], $9::text[], $10::text[]
    ) AS i (
        task_id, queue, priority, run_at, max_attempts, timeout_seconds, handler, fence, limit_key, trace_context
    )
    CROSS JOIN LATERAL (
        SELECT i.limit_key IS NOT NULL OR i.queue = ANY (ARRAY(SELECT name FROM limited_queues)) AS limited
    ) AS l
)
SELECT pg_notify('task_service_queue', wakes)
FROM (
    SELECT CASE WHEN name = ANY (ARRAY(SELECT name FROM limited_queues)) THEN '*limits' ELSE name END AS wakes
    FROM unnest($11::text[]) AS woken (name)
    UNION
    SELECT '*limits' FROM unnest($9::text[]) AS key WHERE key IS NOT NULL AND $11::text[] <> '{}'
) AS those
