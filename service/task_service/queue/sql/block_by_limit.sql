-- Hold back what must wait by the limits as they are now, up to $1 rows of a kind: tasks that were entered before their
-- queue had a limit, those that are in line beyond a limit that was lowered, and those in line in a queue that was paused
-- since (they would take the room of others). What runs goes on, and counts. By whoever has the turn (lock_admission.sql). Returns how
-- many rows were changed. The orders have rows read by the index of their state, whatever the statistics say.
WITH entered_before AS (
    SELECT early.task_id
    FROM limited_queues AS l
    CROSS JOIN LATERAL (
        (
            SELECT q.task_id FROM unnest('{0,1,2,3}'::smallint[]) AS p (priority)
            CROSS JOIN LATERAL (
                SELECT q.task_id FROM queue AS q
                WHERE q.state = 'ready' AND NOT q.alone AND q.queue = l.name AND q.priority = p.priority
                    AND NOT q.limited
                ORDER BY q.run_at
                LIMIT $1::integer
            ) AS q
        )
        UNION ALL
        (
            SELECT q.task_id FROM queue AS q
            WHERE q.state = 'ready' AND q.alone AND q.queue = l.name AND NOT q.limited
            ORDER BY q.run_at
            LIMIT $1::integer
        )
        UNION ALL
        (
            SELECT q.task_id FROM queue AS q
            WHERE q.state = 'running' AND q.queue = l.name AND NOT q.limited
            ORDER BY q.worker_id
            LIMIT $1::integer
        )
    ) AS early
),
beyond AS (
    SELECT late.task_id
    FROM limit_rooms AS r
    CROSS JOIN LATERAL (
        (
            SELECT q.task_id FROM queue AS q
            WHERE r.kind = 'queue' AND q.queue = r.name AND q.limited AND q.state <> 'blocked' AND q.state = 'ready'
            ORDER BY q.priority DESC, q.run_at DESC
            LIMIT r.excess
        )
        UNION ALL
        (
            SELECT q.task_id FROM queue AS q
            WHERE r.kind = 'key' AND q.limit_key = r.name AND q.state <> 'blocked' AND q.state = 'ready'
            ORDER BY q.priority DESC, q.run_at DESC
            LIMIT r.excess
        )
    ) AS late
),
in_paused AS (
    SELECT q.task_id FROM paused_queues AS p
    JOIN queue AS q ON q.queue = p.name AND q.limited AND q.state <> 'blocked' AND q.state = 'ready'
),
affected AS MATERIALIZED (
    SELECT q.task_id FROM queue AS q
    WHERE q.task_id = ANY (ARRAY(
        SELECT task_id FROM entered_before UNION SELECT task_id FROM beyond UNION SELECT task_id FROM in_paused
    ))
    ORDER BY q.task_id
    FOR UPDATE SKIP LOCKED
),
looked AS (
    UPDATE limits_looked_at SET at = clock_timestamp()
),
held_back AS (
    UPDATE queue AS q SET state = CASE q.state WHEN 'ready' THEN 'blocked' ELSE q.state END, limited = true
    WHERE q.task_id = ANY (ARRAY(SELECT task_id FROM affected))
    RETURNING 1
)
SELECT count(*) FROM held_back
