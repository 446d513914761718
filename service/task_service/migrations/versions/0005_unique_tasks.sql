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

-- A function's parameters cannot be added to. Calls of the old one fit the new one.
-- squawk-ignore ban-drop-function
DROP FUNCTION enqueue_task(text, jsonb, text, text, text, timestamptz, integer, integer, text[], text, boolean);

-- Enter a task for a worker in the caller's transaction: it is there when that commits, and was never there when it
-- does not. The rules are the API's (`domain/fields.py`); a broken one raises 22023 and names the field.
-- `wake => false` leaves out the NOTIFY, for which transactions queue at their commit: workers then find the task by
-- their poll. Where another task holds `unique_key`, its id is returned, and nothing is written.
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
    unique_key text DEFAULT NULL,
    unique_seconds integer DEFAULT NULL
) RETURNS uuid LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    named CONSTANT text := '^[A-Za-z0-9][A-Za-z0-9_.:-]{0,99}$';
    task uuid := new_task_id();
    rank integer := array_position(ARRAY['urgent', 'high', 'medium', 'low'], lower(trim(priority))) - 1;
    shown text := trim(coalesce(title, handler));
    problem text;
    present uuid;
BEGIN
    problem := CASE
        WHEN handler IS NULL OR handler !~ named THEN 'handler: must be a name, such as send_invoice'
        WHEN queue IS NULL OR queue !~ named THEN 'queue: must be a name, such as default'
        WHEN length(shown) NOT BETWEEN 1 AND 200 THEN 'title: must have 1 to 200 characters'
        WHEN rank IS NULL THEN 'priority: must be urgent, high, medium or low'
        WHEN max_attempts IS NULL OR max_attempts NOT BETWEEN 1 AND 100 THEN 'max_attempts: must be 1 to 100'
        WHEN timeout_seconds NOT BETWEEN 1 AND 604800 THEN 'timeout_seconds: must be 1 to 604800'
        WHEN tags IS NULL OR cardinality(tags) > 10 THEN 'tags: at most 10'
        WHEN EXISTS (SELECT FROM unnest(tags) AS t (tag) WHERE tag IS NULL OR length(trim(tag)) NOT BETWEEN 1 AND 50)
            THEN 'tags: each must have 1 to 50 characters'
        WHEN octet_length(payload::text) > 262144 THEN 'payload: at most 262144 bytes of JSON'
        WHEN run_at IN ('infinity', '-infinity') THEN 'run_at: must be a moment'
        WHEN length(created_by) > 100 THEN 'created_by: at most 100 characters'
        WHEN unique_key !~ named THEN 'unique_key: must be a name, such as order-7'
        WHEN unique_seconds IS NOT NULL AND unique_key IS NULL THEN 'unique_seconds: needs a unique_key'
        WHEN unique_seconds NOT BETWEEN 1 AND 31536000 THEN 'unique_seconds: must be 1 to 31536000'
    END;
    IF problem IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = problem;
    END IF;
    IF unique_key IS NOT NULL THEN
        SELECT k.holder INTO present FROM claim_unique_keys(ARRAY[unique_key], ARRAY[task], ARRAY[unique_seconds]) AS k;
        IF FOUND THEN
            RETURN present;
        END IF;
    END IF;
    INSERT INTO tasks (
        id, title, priority, handler, payload, queue, run_at, max_attempts, timeout_seconds, tags, created_by
    )
    VALUES (
        task, shown, rank, handler, payload, queue, run_at, max_attempts, timeout_seconds,
        ARRAY(
            SELECT (array_agg(trim(t.tag) ORDER BY t.place))[1] FROM unnest(tags) WITH ORDINALITY AS t (tag, place)
            GROUP BY lower(trim(t.tag)) ORDER BY min(t.place)
        ),
        created_by
    );
    INSERT INTO task_history (task_id, new_status, changed_by)
    VALUES (task, CASE WHEN run_at > clock_timestamp() THEN 'scheduled' ELSE 'pending' END, created_by);
    INSERT INTO queue (task_id, queue, priority, run_at, max_attempts, timeout_seconds, handler)
    VALUES (task, queue, rank, greatest(run_at, clock_timestamp()), max_attempts, timeout_seconds, handler);
    IF wake THEN
        PERFORM pg_notify('task_service_queue', queue);
    END IF;
    RETURN task;
END
$$;
