-- An id as the service makes them: milliseconds since 1970, then chance (UUID version 7).
CREATE FUNCTION new_task_id() RETURNS uuid LANGUAGE sql VOLATILE PARALLEL SAFE
RETURN encode(
    set_bit(set_bit(
        overlay(
            uuid_send(gen_random_uuid())
            PLACING substring(int8send((extract(epoch FROM clock_timestamp()) * 1000)::bigint) FROM 3) FROM 1 FOR 6
        ), 52, 1), 53, 1),
    'hex'
)::uuid;

-- Enter a task for a worker in the caller's transaction: it is there when that commits, and was never there when it does
-- not. The rules are the API's (`domain/fields.py`); a broken one raises 22023 and names the field. `wake => false` leaves
-- out the NOTIFY, for which transactions queue at their commit: workers then find the task by their poll.
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
    wake boolean DEFAULT true
) RETURNS uuid LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    named CONSTANT text := '^[A-Za-z0-9][A-Za-z0-9_.:-]{0,99}$';
    task uuid := new_task_id();
    rank integer := array_position(ARRAY['urgent', 'high', 'medium', 'low'], lower(trim(priority))) - 1;
    shown text := trim(coalesce(title, handler));
    problem text;
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
    END;
    IF problem IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = problem;
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
