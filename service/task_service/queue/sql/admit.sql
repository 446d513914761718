-- Admit tasks that wait for a limit: up to $2 that are due and for which there is room become ready, and workers are woken.
-- By whoever has the turn (lock_admission.sql). $1: how many of a key may be in line, so that no key fills the line alone.
--
-- A line is a key within a queue ('' for tasks without one). Of each line whose key and queue both have room the first come
-- into question, by priority and age; of many lines, few of each. A task must be within its key's room, and then within its
-- queue's, where keys take turns. That may leave room over, never go beyond it: whoever admitted something looks again.
--
-- An admitted row's run_at is now, in the order of admission: claims come to it behind what is in line already, and every
-- worker's lower bound lies before it. The state is asked for in two ways, so that only queue_blocked can serve the search
-- and only the primary key the locking, whatever the statistics say. Returns how many were admitted, and in how many
-- seconds a bucket that is empty has its next token (null: none is).
WITH RECURSIVE lines (queue, key) AS (
    (
        SELECT q.queue, coalesce(q.limit_key, '') FROM queue AS q
        WHERE q.state = 'blocked' AND NOT q.waits
        ORDER BY q.queue, coalesce(q.limit_key, '')
        LIMIT 1
    )
    UNION ALL
    SELECT next.queue, next.key
    FROM lines AS l
    CROSS JOIN LATERAL (
        SELECT q.queue, coalesce(q.limit_key, '') AS key FROM queue AS q
        WHERE q.state = 'blocked' AND NOT q.waits AND (q.queue, coalesce(q.limit_key, '')) > (l.queue, l.key)
        ORDER BY q.queue, coalesce(q.limit_key, '')
        LIMIT 1
    ) AS next
),
rooms AS MATERIALIZED (
    SELECT r.* FROM limit_rooms AS r
    WHERE (r.kind = 'queue' AND r.name IN (SELECT queue FROM lines))
        OR (r.kind = 'key' AND r.name IN (SELECT key FROM lines))
),
keys AS MATERIALIZED (
    SELECT k.key, least($1::integer - in_line.number, r.room)::integer AS room
    FROM (SELECT DISTINCT key FROM lines WHERE key <> '') AS k
    CROSS JOIN LATERAL (
        SELECT count(*) AS number FROM queue AS q
        WHERE q.limit_key = k.key AND q.state <> 'blocked' AND q.state = 'ready'
    ) AS in_line
    LEFT JOIN rooms AS r ON r.kind = 'key' AND r.name = k.key
),
open_lines AS MATERIALIZED (
    SELECT
        l.queue, l.key, k.room AS key_room, r.room AS queue_room,
        least(k.room, r.room, greatest($2::integer / count(*) OVER (), 1)) AS most
    FROM lines AS l
    LEFT JOIN keys AS k ON k.key = l.key
    LEFT JOIN rooms AS r ON r.kind = 'queue' AND r.name = l.queue
    WHERE least(k.room, r.room, $2::integer) > 0 AND l.queue <> ALL (ARRAY(SELECT name FROM paused_queues))
),
due AS MATERIALIZED (
    SELECT l.queue, l.key, l.key_room, l.queue_room, first.task_id, first.priority, first.run_at
    FROM open_lines AS l
    CROSS JOIN unnest('{0,1,2,3}'::smallint[]) AS p (priority)
    CROSS JOIN LATERAL (
        SELECT q.task_id, q.priority, q.run_at FROM queue AS q
        WHERE q.state = 'blocked' AND NOT q.waits AND q.queue = l.queue AND coalesce(q.limit_key, '') = l.key
            AND q.priority = p.priority AND q.run_at <= now()
        ORDER BY q.run_at
        LIMIT l.most
    ) AS first
),
within_key AS (
    SELECT * FROM (
        SELECT *, row_number() OVER (
            PARTITION BY key, CASE WHEN key = '' THEN queue END ORDER BY priority, run_at
        ) AS place
        FROM due
    ) AS placed
    WHERE key_room IS NULL OR place <= key_room
),
within_queue AS (
    SELECT * FROM (
        SELECT *, row_number() OVER (PARTITION BY queue ORDER BY priority, place, random()) AS queue_place
        FROM within_key
    ) AS placed
    WHERE queue_room IS NULL OR queue_place <= queue_room
),
chosen AS MATERIALIZED (
    SELECT task_id, queue, key, row_number() OVER (ORDER BY priority, place, queue_place) AS place
    FROM within_queue
    ORDER BY place
    LIMIT $2::integer
),
admitted AS MATERIALIZED (
    SELECT c.task_id, c.queue, c.key, c.place
    FROM chosen AS c
    CROSS JOIN LATERAL (
        SELECT FROM queue AS q
        WHERE q.task_id = c.task_id AND q.state <> ALL ('{ready,running}') AND NOT q.waits AND q.queue = c.queue
        FOR UPDATE SKIP LOCKED
    ) AS still
),
changed AS (
    UPDATE queue AS q
    SET state = 'ready', run_at = statement_timestamp() + make_interval(secs => a.place * 0.000001)
    FROM admitted AS a
    WHERE q.task_id = ANY (ARRAY(SELECT task_id FROM admitted)) AND q.task_id = a.task_id
),
buckets AS MATERIALIZED (
    SELECT r.kind, r.name, r.rate, r.period_seconds, r.tokens - taken.number AS tokens, r.rate > r.unstarted AS fills
    FROM rooms AS r
    CROSS JOIN LATERAL (
        SELECT count(*) AS number FROM admitted AS a
        WHERE CASE r.kind WHEN 'queue' THEN a.queue ELSE a.key END = r.name
    ) AS taken
    WHERE r.rate IS NOT NULL
),
spent AS (
    UPDATE limits AS l SET tokens = b.tokens, tokens_at = statement_timestamp()
    FROM buckets AS b
    WHERE l.kind = b.kind AND l.name = b.name
),
woken AS (
    SELECT pg_notify('task_service_queue', queue) FROM (SELECT DISTINCT queue FROM admitted) AS queues
)
SELECT
    (SELECT count(*) FROM admitted) AS admitted,
    (SELECT min((1 - tokens) * period_seconds / rate) FROM buckets WHERE fills AND tokens < 1) AS seconds,
    (SELECT count(*) FROM woken) AS woken
