-- The queue in figures, one row per queue that has tasks, without reading the queue: $1 bounds what is counted.
--
-- How many there are is kept (see task_counts), and those that run are few. Of those that wait, the smaller side is
-- counted by queue_ready, those whose time comes later or those that are due; the other one is the rest. Only when both
-- sides have $1 rows or more are the later ones counted in full. ORDER BY has them read by queue_ready: without it the
-- planner takes the whole queue from its beginning, sure to find $1 rows soon. Blocked are those that are due but for their
-- limit.
WITH totals AS (
    SELECT value AS name, sum(number)::bigint AS total
    FROM (
        SELECT value, number FROM task_counts WHERE dimension = 'queue'
        UNION ALL
        SELECT value, number FROM task_deltas WHERE dimension = 'queue'
    ) AS parts
    GROUP BY value
    HAVING sum(number) > 0
),
running AS (
    SELECT queue AS name, count(*) AS number FROM queue WHERE state = 'running' GROUP BY queue
),
blocked AS (
    SELECT
        queue AS name, count(*) AS number, count(*) FILTER (WHERE run_at > statement_timestamp()) AS later
    FROM (
        SELECT queue, run_at FROM queue WHERE state = 'blocked' AND NOT waits
        UNION ALL
        SELECT queue, run_at FROM queue WHERE waits
    ) AS either
    GROUP BY queue
),
sides AS (
    SELECT
        t.name, coalesce(running.number, 0) AS running,
        coalesce(blocked.number, 0) AS blocked, coalesce(blocked.later, 0) AS blocked_later,
        greatest(t.total - coalesce(running.number, 0) - coalesce(blocked.number, 0), 0) AS waiting,
        later.number AS later, due.number AS due, every_later.number AS every_later
    FROM totals AS t
    LEFT JOIN running ON running.name = t.name
    LEFT JOIN blocked ON blocked.name = t.name
    CROSS JOIN LATERAL (
        SELECT count(*) AS number FROM (
            SELECT FROM unnest('{0,1,2,3}'::smallint[]) AS p (priority)
            CROSS JOIN LATERAL (
                SELECT FROM queue AS q
                WHERE q.state = 'ready' AND NOT q.alone AND q.queue = t.name AND q.priority = p.priority
                    AND q.run_at > statement_timestamp()
                ORDER BY q.run_at LIMIT $1::integer
            ) AS one
            UNION ALL
            (
                SELECT FROM queue AS q
                WHERE q.state = 'ready' AND q.alone AND q.queue = t.name AND q.run_at > statement_timestamp()
                ORDER BY q.run_at LIMIT $1::integer
            )
            LIMIT $1::integer
        ) AS found
    ) AS later
    CROSS JOIN LATERAL (
        SELECT count(*) AS number FROM (
            SELECT FROM unnest('{0,1,2,3}'::smallint[]) AS p (priority)
            CROSS JOIN LATERAL (
                SELECT FROM queue AS q
                WHERE q.state = 'ready' AND NOT q.alone AND q.queue = t.name AND q.priority = p.priority
                    AND q.run_at <= statement_timestamp()
                ORDER BY q.run_at LIMIT $1::integer
            ) AS one
            WHERE later.number >= $1::integer
            UNION ALL
            (
                SELECT FROM queue AS q
                WHERE q.state = 'ready' AND q.alone AND q.queue = t.name AND q.run_at <= statement_timestamp()
                    AND later.number >= $1::integer
                ORDER BY q.run_at LIMIT $1::integer
            )
            LIMIT $1::integer
        ) AS found
    ) AS due
    CROSS JOIN LATERAL (
        SELECT count(*) AS number FROM queue AS q
        WHERE q.state = 'ready' AND q.queue = t.name AND q.run_at > statement_timestamp()
            AND later.number >= $1::integer AND due.number >= $1::integer
    ) AS every_later
),
split AS (
    SELECT
        name, waiting, running, blocked, blocked_later,
        CASE
            WHEN later < $1::integer THEN least(later, waiting)
            WHEN due < $1::integer THEN greatest(waiting - due, 0)
            ELSE least(every_later, waiting)
        END AS scheduled
    FROM sides
)
SELECT
    s.name, s.waiting - s.scheduled AS ready, s.scheduled + s.blocked_later AS scheduled, s.running,
    s.blocked - s.blocked_later AS blocked,
    coalesce(extract(epoch FROM clock_timestamp() - oldest.run_at), 0)::float8 AS oldest_age_seconds
FROM split AS s
CROSS JOIN LATERAL (
    SELECT min(run_at) AS run_at FROM (
        SELECT one.run_at FROM unnest('{0,1,2,3}'::smallint[]) AS p (priority)
        CROSS JOIN LATERAL (
            SELECT q.run_at FROM queue AS q
            WHERE q.state = 'ready' AND NOT q.alone AND q.queue = s.name AND q.priority = p.priority
                AND q.run_at <= statement_timestamp()
            ORDER BY q.run_at
            LIMIT 1
        ) AS one
        UNION ALL
        (
            SELECT q.run_at FROM queue AS q
            WHERE q.state = 'ready' AND q.alone AND q.queue = s.name AND q.run_at <= statement_timestamp()
            ORDER BY q.run_at
            LIMIT 1
        )
    ) AS firsts
) AS oldest
ORDER BY s.name
