-- What a row of the queue that `waits` still waits for: one row for each needed task that has not ended. `cancels`: if that
-- one does not complete, the task is cancelled.
CREATE TABLE dependencies (
    task_id uuid NOT NULL,
    needs uuid NOT NULL,
    cancels boolean NOT NULL,
    PRIMARY KEY (task_id, needs)
);
CREATE INDEX dependencies_needs ON dependencies (needs);

-- Needed tasks that people have ended, for the next sweep.
CREATE TABLE ended_needs (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    task_id uuid NOT NULL
);

-- Whether others may wait for it, so that only the end of such a task is looked at. No index has it.
ALTER TABLE queue ADD COLUMN awaited boolean NOT NULL DEFAULT false;
-- Blocked until all that it needs has ended; what then has a limit is blocked until it is admitted.
ALTER TABLE queue ADD COLUMN waits boolean NOT NULL DEFAULT false;

-- What a handler says of its run. No index has these columns: to write them is a HOT update.
ALTER TABLE queue ADD COLUMN progress double precision;
ALTER TABLE queue ADD COLUMN progress_note text;
ALTER TABLE queue ADD COLUMN progress_at timestamptz;

-- Which task a key stands for: the one that was made with it, in the same transaction. `expires_at`: its period's end.
CREATE TABLE unique_keys (
    key text PRIMARY KEY,
    task_id uuid NOT NULL,
    expires_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 80);
CREATE INDEX unique_keys_age ON unique_keys (created_at);

-- The keys that their tasks hold: while they are open, and until their period ends. A deleted one holds nothing.
CREATE VIEW unique_held AS
SELECT k.key, k.task_id
FROM unique_keys AS k
JOIN tasks AS t ON t.id = k.task_id
WHERE t.deleted_at IS NULL AND (
    k.expires_at > clock_timestamp()
    OR t.status IN ('pending', 'in_progress')
    OR EXISTS (SELECT FROM queue AS q WHERE q.task_id = t.id)
);

-- Claim keys for tasks that the caller is about to insert; arrays of one length, no key twice, seconds null: no period.
-- Returns the keys that other tasks hold, and those tasks: all others are the caller's. Everybody locks in the order of
-- the keys, so that no two wait for each other. What is held is asked after that, by a statement of its own: the
-- snapshot of one that has waited is older than what it waited for.
CREATE FUNCTION claim_unique_keys(keys text[], task_ids uuid[], seconds integer[])
RETURNS TABLE (held_key text, holder uuid) LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    locked integer;
BEGIN
    LOOP
        INSERT INTO unique_keys (key, task_id, expires_at)
        SELECT w.key, w.task_id, now() + make_interval(secs => w.seconds)
        FROM unnest(keys, task_ids, seconds) AS w (key, task_id, seconds)
        ORDER BY w.key COLLATE "C"
        ON CONFLICT DO NOTHING;
        SELECT count(*) INTO locked
        FROM (
            SELECT FROM unique_keys AS k WHERE k.key = ANY (keys) ORDER BY k.key COLLATE "C" FOR UPDATE
        ) AS present;
        EXIT WHEN locked = cardinality(keys);  -- else one was forgotten between the two statements
    END LOOP;
    UPDATE unique_keys AS k
    SET task_id = w.task_id, expires_at = now() + make_interval(secs => w.seconds), created_at = now()
    FROM unnest(keys, task_ids, seconds) AS w (key, task_id, seconds)
    WHERE k.key = w.key AND k.task_id <> w.task_id
        AND NOT EXISTS (SELECT FROM unique_held AS h WHERE h.key = k.key);
    RETURN QUERY
    SELECT k.key, k.task_id
    FROM unnest(keys, task_ids) AS w (key, task_id)
    JOIN unique_keys AS k ON k.key = w.key
    WHERE k.task_id <> w.task_id;
END
$$;

-- How many tasks of a queue, or of those with one limit key, run at a time (`concurrency`), and how many start in a period:
-- a bucket of at most `rate` tokens, filled evenly within `period_seconds`. `tokens` is what was in it at `tokens_at`.
CREATE TABLE limits (
    kind text NOT NULL CHECK (kind IN ('queue', 'key')),
    name text NOT NULL,
    concurrency integer CHECK (concurrency > 0),
    rate integer CHECK (rate > 0),
    period_seconds double precision CHECK (period_seconds > 0),
    tokens double precision NOT NULL DEFAULT 0,
    tokens_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_by text,
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (kind, name),
    CHECK (concurrency IS NOT NULL OR rate IS NOT NULL),
    CHECK ((rate IS NULL) = (period_seconds IS NULL))
) WITH (fillfactor = 50);

-- When somebody last looked at all limits: of many workers that poll, one is enough.
CREATE TABLE limits_looked_at (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    at timestamptz NOT NULL DEFAULT '-infinity'
) WITH (fillfactor = 10);
INSERT INTO limits_looked_at DEFAULT VALUES;

ALTER TABLE tasks ADD COLUMN limit_key text;

-- `limited`: the row waits as `blocked` until it is admitted (admit.sql), which makes it `ready`.
ALTER TABLE queue ADD COLUMN limited boolean NOT NULL DEFAULT false;

DROP INDEX queue_blocked;
-- What waits for admission, by line: a key within a queue. And what was admitted: in line for a worker, or running. Rows
-- without a limit are in none of them.
CREATE INDEX queue_blocked ON queue (queue, (coalesce(limit_key, '')), priority, run_at)
    WHERE state = 'blocked' AND NOT waits;
CREATE INDEX queue_waits ON queue (queue) WHERE waits;
CREATE INDEX queue_admitted ON queue (queue) WHERE limited AND state <> 'blocked';
CREATE INDEX queue_admitted_keys ON queue (limit_key) WHERE limit_key IS NOT NULL AND state <> 'blocked';

-- The limits with what they allow at this moment: `admitted` are in line or running, `unstarted` of them are in line or
-- were only fetched ahead. Tokens and what has not started make at most one bucket, so that a line that was waited for does
-- not start together with a full one. `room` is for so many more; `excess` are too many (the limit was lowered).
CREATE VIEW limit_rooms AS
SELECT
    l.kind, l.name, l.concurrency, l.rate, l.period_seconds, l.updated_by, l.updated_at,
    a.admitted, a.unstarted, b.tokens,
    floor(greatest(least(l.concurrency - a.admitted, b.tokens), 0))::integer AS room,
    greatest(a.admitted - l.concurrency, a.unstarted - l.rate, 0)::integer AS excess
FROM limits AS l
CROSS JOIN LATERAL (
    SELECT count(*) AS admitted, count(*) FILTER (WHERE NOT one.started) AS unstarted
    FROM (
        SELECT q.started FROM queue AS q
        WHERE l.kind = 'queue' AND q.queue = l.name AND q.limited AND q.state <> 'blocked'
        UNION ALL
        SELECT q.started FROM queue AS q
        WHERE l.kind = 'key' AND q.limit_key = l.name AND q.state <> 'blocked'
    ) AS one
) AS a
CROSS JOIN LATERAL (
    SELECT CASE WHEN l.rate IS NOT NULL THEN greatest(0, least(
        l.rate - a.unstarted,
        l.tokens + l.rate * extract(epoch FROM statement_timestamp() - l.tokens_at)::float8 / l.period_seconds
    )) END AS tokens
) AS b;

-- Whoever may enter tasks may know this much of the limits, without a right of their own.
CREATE VIEW limited_queues AS SELECT name FROM limits WHERE kind = 'queue';
GRANT SELECT ON limited_queues TO PUBLIC;

-- The next one takes its place in the same transaction, for the same calls: beside it, they would be ambiguous.
-- squawk-ignore ban-drop-function
-- As before, with the limit key, the progress of the present claim (what was said under an earlier one is older than it),
-- and the needed tasks that one still waits for.
CREATE OR REPLACE VIEW task_view AS
SELECT
    t.id, t.number, t.title, t.description,
    CASE
        WHEN q.state = 'running' THEN 'processing'
        WHEN q.task_id IS NOT NULL AND q.run_at > statement_timestamp() THEN 'scheduled'
        WHEN q.task_id IS NOT NULL THEN 'pending'
        WHEN t.status = 'pending' AND t.run_at > statement_timestamp() THEN 'scheduled'
        WHEN t.status IS NOT NULL THEN t.status
        WHEN r.outcome = 'completed' THEN 'completed'
        WHEN r.outcome = 'cancelled' THEN 'cancelled'
        ELSE 'failed'
    END AS status,
    t.priority, t.assigned_to, t.due_date, t.tags, t.handler, t.payload, t.queue,
    COALESCE(q.run_at, t.run_at) AS run_at,
    t.max_attempts, t.timeout_seconds,
    COALESCE(q.attempt, r.attempt, 0) AS attempt,
    COALESCE(q.fence, r.fence, 0) AS fence,
    r.result, r.error, r.outcome, r.reason,
    t.created_by, t.created_at, t.updated_at, t.deleted_at,
    CASE
        WHEN q.task_id IS NOT NULL OR t.status IN ('pending', 'in_progress') THEN NULL
        WHEN t.status IS NOT NULL THEN t.status_at
        ELSE r.finished_at
    END AS processed_at,
    COALESCE(q.worker_id, CASE WHEN q.task_id IS NULL AND t.status IS NULL THEN r.worker_id END)
        AS processing_instance_id,
    q.claimed_at, q.cancel_requested_at,
    (SELECT count(*) FROM conversations AS c WHERE c.task_id = t.id) AS conversation_count,
    t.version,
    t.stamp,
    t.limit_key,
    CASE WHEN q.progress_at >= q.claimed_at THEN q.progress END AS progress,
    CASE WHEN q.progress_at >= q.claimed_at THEN q.progress_note END AS progress_note,
    CASE WHEN q.progress_at >= q.claimed_at THEN q.progress_at END AS progress_at,
    CASE
        WHEN q.waits THEN ARRAY(SELECT needs FROM dependencies AS d WHERE d.task_id = t.id ORDER BY needs)
        ELSE '{}'
    END AS waits_for
FROM tasks AS t
LEFT JOIN queue AS q ON q.task_id = t.id
LEFT JOIN LATERAL (
    SELECT * FROM runs WHERE runs.task_id = t.id ORDER BY fence DESC LIMIT 1
) AS r ON true;

-- One task of the view, by a plan that is kept: to plan the view takes longer than to read a row of it, and sessions plan
-- each statement anew (decision 7). What could make a kept plan a bad one later is turned off in it.
CREATE FUNCTION read_task(wanted uuid) RETURNS SETOF task_view LANGUAGE plpgsql STABLE ROWS 1
SET search_path FROM CURRENT
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
BEGIN
    RETURN QUERY SELECT * FROM task_view AS v WHERE v.id = wanted;
END
$$;

-- A function's parameters cannot be added to. Calls of the old one fit the new one.
-- squawk-ignore ban-drop-function
DROP FUNCTION enqueue_task(text, jsonb, text, text, text, timestamptz, integer, integer, text[], text, boolean);

-- What the functions below have in common. It raises 22023 and names the field of a value that the API would refuse, too
-- (`domain/fields.py`).
CREATE FUNCTION check_new_tasks(
    handler text, payloads jsonb[], title text, queue text, priority text, run_at timestamptz, max_attempts integer,
    timeout_seconds integer, tags text[], created_by text, limit_key text
) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    named CONSTANT text := '^[A-Za-z0-9][A-Za-z0-9_.:-]{0,99}$';
    problem text := CASE
        WHEN handler IS NULL OR handler !~ named THEN 'handler: must be a name, such as send_invoice'
        WHEN queue IS NULL OR queue !~ named THEN 'queue: must be a name, such as default'
        WHEN length(trim(coalesce(title, handler))) NOT BETWEEN 1 AND 200 THEN 'title: must have 1 to 200 characters'
        WHEN coalesce(lower(trim(priority)), '') NOT IN ('urgent', 'high', 'medium', 'low')
            THEN 'priority: must be urgent, high, medium or low'
        WHEN max_attempts IS NULL OR max_attempts NOT BETWEEN 1 AND 100 THEN 'max_attempts: must be 1 to 100'
        WHEN timeout_seconds NOT BETWEEN 1 AND 604800 THEN 'timeout_seconds: must be 1 to 604800'
        WHEN tags IS NULL OR cardinality(tags) > 10 THEN 'tags: at most 10'
        WHEN run_at IN ('infinity', '-infinity') THEN 'run_at: must be a moment'
        WHEN limit_key !~ named THEN 'limit_key: must be a name, such as customer-7'
        WHEN length(created_by) > 100 THEN 'created_by: at most 100 characters'
    END;
    payload jsonb;
BEGIN
    IF problem IS NULL AND cardinality(tags) > 0 THEN  -- apart: an expression without a query is quick
        IF EXISTS (SELECT FROM unnest(tags) AS t (tag) WHERE tag IS NULL OR length(trim(tag)) NOT BETWEEN 1 AND 50) THEN
            problem := 'tags: each must have 1 to 50 characters';
        END IF;
    END IF;
    FOREACH payload IN ARRAY payloads LOOP
        IF octet_length(payload::text) > 262144 THEN
            problem := coalesce(problem, 'payload: at most 262144 bytes of JSON');
        END IF;
    END LOOP;
    IF problem IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = problem;
    END IF;
END
$$;

CREATE FUNCTION enter_new_tasks(
    ids uuid[], handler text, payloads jsonb[], title text, queue text, priority text, run_at timestamptz,
    max_attempts integer, timeout_seconds integer, tags text[], created_by text, wake boolean, limit_key text
) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    rank integer := array_position(ARRAY['urgent', 'high', 'medium', 'low'], lower(trim(priority))) - 1;
    shown text := trim(coalesce(title, handler));
    kept text[] := '{}';
    limited boolean := limit_key IS NOT NULL
        OR EXISTS (SELECT FROM limited_queues AS l WHERE l.name = enter_new_tasks.queue);
BEGIN
    IF cardinality(tags) > 0 THEN
        kept := ARRAY(
            SELECT (array_agg(trim(t.tag) ORDER BY t.place))[1] FROM unnest(tags) WITH ORDINALITY AS t (tag, place)
            GROUP BY lower(trim(t.tag)) ORDER BY min(t.place)
        );
    END IF;
    INSERT INTO tasks (
        id, title, priority, handler, payload, queue, run_at, max_attempts, timeout_seconds, limit_key, tags, created_by
    )
    SELECT
        task.id, shown, rank, handler, task.payload, queue, run_at, max_attempts, timeout_seconds, limit_key, kept,
        created_by
    FROM unnest(ids, payloads) AS task (id, payload);
    INSERT INTO task_history (task_id, new_status, changed_by)
    SELECT task.id, CASE WHEN run_at > clock_timestamp() THEN 'scheduled' ELSE 'pending' END, created_by
    FROM unnest(ids) AS task (id);
    INSERT INTO queue (
        task_id, queue, priority, run_at, max_attempts, timeout_seconds, handler, limit_key, limited, state
    )
    SELECT
        task.id, queue, rank, greatest(run_at, clock_timestamp()), max_attempts, timeout_seconds, handler, limit_key,
        limited, CASE WHEN limited THEN 'blocked' ELSE 'ready' END
    FROM unnest(ids) AS task (id);
    IF wake THEN
        PERFORM pg_notify('task_service_queue', CASE WHEN limited THEN '*limits' ELSE queue END);
    END IF;
END
$$;

-- Let tasks wait that this transaction has entered: `waiting[n]` for `needed[n]`, and `cancels[n]` says whether it is
-- cancelled when that does not complete. Returns needs that are not there; then nothing waits.
--
-- The rows of the needed tasks are locked until the transaction ends, those of the queue first, each in one order, and
-- marked, so that no end is missed: whoever is ending one is waited for. A need that has entered the queue again since its
-- row there was looked for is marked too, unless somebody has locked it: to wait for them could be to wait for each other.
-- Then a sweep finds its end.
CREATE FUNCTION let_wait(waiting uuid[], needed uuid[], cancels boolean[]) RETURNS uuid[] LANGUAGE plpgsql
SET search_path FROM CURRENT SET enable_seqscan = off AS $$
DECLARE
    wanted uuid[] := ARRAY(SELECT DISTINCT need FROM unnest(needed) AS need);  -- many may need the same
    there uuid[];
    missing uuid[];
BEGIN
    PERFORM FROM queue WHERE task_id = ANY (wanted) ORDER BY task_id FOR UPDATE;
    UPDATE queue SET awaited = true WHERE task_id = ANY (wanted) AND NOT awaited;
    there := ARRAY(SELECT id FROM tasks WHERE id = ANY (wanted) AND deleted_at IS NULL ORDER BY id FOR SHARE);
    missing := ARRAY(SELECT need FROM unnest(wanted) AS need WHERE need <> ALL (there) ORDER BY need);
    IF cardinality(missing) = 0 THEN
        INSERT INTO dependencies (task_id, needs, cancels) SELECT * FROM unnest(waiting, needed, cancels);
        UPDATE queue SET awaited = true
        WHERE task_id = ANY (ARRAY(
            SELECT task_id FROM queue WHERE task_id = ANY (wanted) AND NOT awaited FOR UPDATE SKIP LOCKED
        ));
        UPDATE queue SET state = 'blocked', waits = true WHERE task_id = ANY (waiting);
    END IF;
    RETURN missing;
END
$$;

-- Let each of these new tasks wait for all of these others. Who has ended already is noted for the next sweep. 22023 names
-- what is wrong.
CREATE FUNCTION wait_for_needs(ids uuid[], needs uuid[], when_failed text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    wanted uuid[] := ARRAY(SELECT DISTINCT need FROM unnest(needs) AS need);
    waiting uuid[];
    needed uuid[];
    cancels boolean[];
    missing uuid[];
    problem text := CASE
        WHEN needs IS NULL OR array_position(needs, NULL) IS NOT NULL THEN 'needs: must be ids of tasks'
        WHEN cardinality(needs) > 100 THEN 'needs: at most 100'
        WHEN coalesce(when_failed, '') NOT IN ('cancel', 'run') THEN 'when_failed: must be cancel or run'
    END;
BEGIN
    SELECT array_agg(id), array_agg(need), array_agg(when_failed = 'cancel') INTO waiting, needed, cancels
    FROM unnest(ids) AS id, unnest(wanted) AS need;
    IF problem IS NULL AND waiting IS NOT NULL THEN
        missing := let_wait(waiting, needed, cancels);
        INSERT INTO ended_needs (task_id)
        SELECT need FROM unnest(wanted) AS need WHERE NOT EXISTS (SELECT FROM queue WHERE task_id = need);
        problem := 'needs: there is no task ' || missing[1];
    END IF;
    IF problem IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = problem;
    END IF;
END
$$;

-- Enter a task for a worker in the caller's transaction: it is there when that commits, and was never there when it
-- does not. `wake => false` leaves out the NOTIFY, for which transactions queue at their commit: workers then find the
-- task by their poll. Where another task holds `unique_key`, its id is returned, and nothing is written. It runs when all
-- that it `needs` has ended.
CREATE FUNCTION enqueue_task(
    handler text,
    payload jsonb DEFAULT NULL,
    title text DEFAULT NULL,
    queue text DEFAULT 'default',
    priority text DEFAULT 'medium',
    run_at timestamptz DEFAULT NULL,
    max_attempts integer DEFAULT 5,
    timeout_seconds integer DEFAULT NULL,
    tags text[] DEFAULT '{}',
    created_by text DEFAULT current_user,
    wake boolean DEFAULT true,
    limit_key text DEFAULT NULL,
    unique_key text DEFAULT NULL,
    unique_seconds integer DEFAULT NULL,
    needs uuid[] DEFAULT '{}',
    when_failed text DEFAULT 'cancel'
) RETURNS uuid LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    task uuid := new_task_id();
    problem text := CASE
        WHEN unique_key !~ '^[A-Za-z0-9][A-Za-z0-9_.:-]{0,99}$' THEN 'unique_key: must be a name, such as order-7'
        WHEN unique_seconds IS NOT NULL AND unique_key IS NULL THEN 'unique_seconds: needs a unique_key'
        WHEN unique_seconds NOT BETWEEN 1 AND 31536000 THEN 'unique_seconds: must be 1 to 31536000'
    END;
    present uuid;
BEGIN
    IF problem IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = problem;
    END IF;
    PERFORM check_new_tasks(
        handler, ARRAY[payload], title, queue, priority, run_at, max_attempts, timeout_seconds, tags, created_by,
        limit_key
    );
    IF unique_key IS NOT NULL THEN
        SELECT k.holder INTO present FROM claim_unique_keys(ARRAY[unique_key], ARRAY[task], ARRAY[unique_seconds]) AS k;
        IF FOUND THEN
            RETURN present;
        END IF;
    END IF;
    PERFORM enter_new_tasks(
        ARRAY[task], handler, ARRAY[payload], title, queue, priority, run_at, max_attempts, timeout_seconds, tags,
        created_by, wake AND needs = '{}', limit_key
    );
    IF needs IS DISTINCT FROM '{}' OR when_failed IS DISTINCT FROM 'cancel' THEN
        PERFORM wait_for_needs(ARRAY[task], needs, when_failed);
    END IF;
    RETURN task;
END
$$;

-- The same for many tasks that differ in their payload only; their ids in the order of the payloads, rising, which makes
-- each index grow at its end.
CREATE FUNCTION enqueue_tasks(
    handler text,
    payloads jsonb[],
    title text DEFAULT NULL,
    queue text DEFAULT 'default',
    priority text DEFAULT 'medium',
    run_at timestamptz DEFAULT NULL,
    max_attempts integer DEFAULT 5,
    timeout_seconds integer DEFAULT NULL,
    tags text[] DEFAULT '{}',
    created_by text DEFAULT current_user,
    wake boolean DEFAULT true,
    limit_key text DEFAULT NULL,
    needs uuid[] DEFAULT '{}',
    when_failed text DEFAULT 'cancel'
) RETURNS uuid[] LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    ids uuid[] := ARRAY(SELECT new_task_id() FROM generate_series(1, cardinality(payloads)) ORDER BY 1);
BEGIN
    IF payloads IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'payloads: must be an array';
    END IF;
    PERFORM check_new_tasks(
        handler, payloads, title, queue, priority, run_at, max_attempts, timeout_seconds, tags, created_by, limit_key
    );
    PERFORM enter_new_tasks(
        ids, handler, payloads, title, queue, priority, run_at, max_attempts, timeout_seconds, tags, created_by,
        wake AND needs = '{}' AND cardinality(ids) > 0, limit_key
    );
    IF needs IS DISTINCT FROM '{}' OR when_failed IS DISTINCT FROM 'cancel' THEN
        PERFORM wait_for_needs(ids, needs, when_failed);
    END IF;
    RETURN ids;
END
$$;
