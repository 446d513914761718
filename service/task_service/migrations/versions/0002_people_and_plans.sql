-- People and what they plan: users, tokens, settings, schedules, the daily log, imports, pauses, idempotency keys, the
-- cache's outbox. What each table is for: docs of `store.tables`.

-- `stamp` rises with everything that a reader of the task could see change, conversations included; `version` only with
-- what an editor's If-Match is about. The cache compares stamps.
ALTER TABLE tasks ADD COLUMN stamp bigint NOT NULL DEFAULT 1;

-- A soft delete of a task that a worker holds hides it; its run is recorded, hidden too.
ALTER TABLE queue ADD COLUMN hidden boolean NOT NULL DEFAULT false;
ALTER TABLE runs ADD COLUMN hidden boolean NOT NULL DEFAULT false;
-- A run that ended its task keeps saying so in the history after a person has opened the task again.
ALTER TABLE runs ADD COLUMN reopened boolean NOT NULL DEFAULT false;

-- Live events are read in the order of transactions; runs of before this revision are no events.
ALTER TABLE runs ADD COLUMN transaction_id xid8;
ALTER TABLE runs ALTER COLUMN transaction_id SET DEFAULT pg_current_xact_id();

CREATE TABLE users (
    id uuid PRIMARY KEY,
    username text NOT NULL,
    password_hash text NOT NULL,
    role text NOT NULL CHECK (role IN ('viewer', 'editor', 'operator', 'admin')),
    token_version integer NOT NULL DEFAULT 1,
    disabled_at timestamptz,
    created_by text,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    last_login_at timestamptz
);
-- Ada and ada are one person.
CREATE UNIQUE INDEX users_username ON users (lower(username));

-- A row is one log-in with the one refresh token of it that is good now (`current`): each use makes the next one. One
-- that comes back after its use was stolen, and ends the log-in (`revoked_at`).
CREATE TABLE refresh_tokens (
    id uuid PRIMARY KEY,
    user_id uuid NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    current uuid NOT NULL,
    expires_at timestamptz NOT NULL,
    used_at timestamptz,
    revoked_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX refresh_tokens_user ON refresh_tokens (user_id);
CREATE INDEX refresh_tokens_expires ON refresh_tokens (expires_at);

-- The audit log reads the history of all tasks, newest first, and that of one person.
CREATE INDEX task_history_at ON task_history (at, task_id, id);
CREATE INDEX task_history_changed_by ON task_history (changed_by, at, task_id, id);
CREATE INDEX runs_finished_at ON runs (finished_at, task_id, fence);

-- Application settings that people keep here, by name; the service itself reads none of them.
CREATE TABLE settings (
    key text PRIMARY KEY,
    value jsonb NOT NULL,
    description text,
    version integer NOT NULL DEFAULT 1,
    updated_by text,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);

-- A cron expression and what it starts: a task made of `template`, or the daily loader.
CREATE TABLE schedules (
    id uuid PRIMARY KEY,
    name text NOT NULL UNIQUE,
    cron text NOT NULL,
    time_zone text NOT NULL DEFAULT 'UTC',
    action text NOT NULL DEFAULT 'task' CHECK (action IN ('task', 'daily_log')),
    template jsonb,
    catch_up text NOT NULL DEFAULT 'last' CHECK (catch_up IN ('none', 'last', 'all')),
    enabled boolean NOT NULL DEFAULT true,
    next_run_at timestamptz,
    last_run_at timestamptz,
    last_task_id uuid,
    last_error text,
    version integer NOT NULL DEFAULT 1,
    created_by text,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CHECK ((action = 'task') = (template IS NOT NULL))
);
CREATE INDEX schedules_due ON schedules (next_run_at) WHERE enabled AND next_run_at IS NOT NULL;

-- The daily snapshot of active tasks, and which days have been taken.
CREATE TABLE daily_log (
    id uuid PRIMARY KEY,
    number bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
    date date NOT NULL,
    task_id uuid NOT NULL REFERENCES tasks (id) ON DELETE CASCADE,
    title text NOT NULL,
    status text NOT NULL,
    assigned_to text,
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (date, task_id)
);
CREATE INDEX daily_log_task ON daily_log (task_id);
CREATE INDEX daily_log_date ON daily_log (date, number);

CREATE TABLE daily_loads (
    date date PRIMARY KEY,
    entries bigint NOT NULL DEFAULT 0,
    loaded_at timestamptz NOT NULL DEFAULT now()
);

-- Queues that people have paused: workers claim nothing from them.
CREATE TABLE paused_queues (
    name text PRIMARY KEY,
    reason text,
    paused_by text,
    paused_at timestamptz NOT NULL DEFAULT now()
);

-- Files that were imported, by the digest of file and mode: the same file again gives the same answer.
CREATE TABLE imports (
    digest text PRIMARY KEY,
    file_name text,
    rows bigint NOT NULL,
    created bigint NOT NULL,
    skipped bigint NOT NULL,
    report jsonb NOT NULL,
    created_by text,
    created_at timestamptz NOT NULL DEFAULT now()
);

-- The first successful answer to a request with an Idempotency-Key, for 24 hours. `caller` and `route` bound the key.
CREATE TABLE idempotency_keys (
    caller text NOT NULL,
    route text NOT NULL,
    key text NOT NULL,
    digest text NOT NULL,
    status smallint,
    headers jsonb,
    body bytea,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (caller, route, key)
);
CREATE INDEX idempotency_keys_age ON idempotency_keys (created_at);

-- Invalidations that could not reach Redis; while one waits, readers pass the cache by.
CREATE TABLE cache_outbox (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    key text NOT NULL,
    stamp bigint NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

-- Numbers of tasks by what they are, for statistics without counting: `task_deltas` gets a row per statement and number
-- that it changes (by the triggers below), and whoever comes by folds them into `task_counts`. The truth is the sum of
-- both. Dimensions: `priority` (of all tasks), `own` (statuses that people set), `run` (statuses by final runs), each
-- without what is deleted; `queue` (all rows of the queue, by its name).
CREATE TABLE task_counts (
    dimension text NOT NULL,
    value text NOT NULL,
    number bigint NOT NULL,
    PRIMARY KEY (dimension, value)
);
CREATE TABLE task_deltas (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    dimension text NOT NULL,
    value text NOT NULL,
    number bigint NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0);

-- What was deleted before there was `hidden`.
UPDATE runs SET hidden = true FROM tasks WHERE tasks.id = runs.task_id AND tasks.deleted_at IS NOT NULL;
UPDATE queue SET hidden = true FROM tasks WHERE tasks.id = queue.task_id AND tasks.deleted_at IS NOT NULL;

CREATE FUNCTION status_of_outcome(outcome text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE outcome WHEN 'completed' THEN 'completed' WHEN 'cancelled' THEN 'cancelled' ELSE 'failed' END;

CREATE FUNCTION count_tasks() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO task_deltas (dimension, value, number)
        SELECT 'priority', priority::text, count(*) FROM after WHERE deleted_at IS NULL GROUP BY priority
        UNION ALL
        SELECT 'own', status, count(*) FROM after WHERE deleted_at IS NULL AND status IS NOT NULL GROUP BY status;
    ELSIF TG_OP = 'DELETE' THEN
        INSERT INTO task_deltas (dimension, value, number)
        SELECT 'priority', priority::text, -count(*) FROM before WHERE deleted_at IS NULL GROUP BY priority
        UNION ALL
        SELECT 'own', status, -count(*) FROM before WHERE deleted_at IS NULL AND status IS NOT NULL GROUP BY status;
    ELSE
        INSERT INTO task_deltas (dimension, value, number)
        SELECT dimension, value, sum(number)
        FROM (
            SELECT 'priority' AS dimension, priority::text AS value, -1 AS number FROM before WHERE deleted_at IS NULL
            UNION ALL
            SELECT 'priority', priority::text, 1 FROM after WHERE deleted_at IS NULL
            UNION ALL
            SELECT 'own', status, -1 FROM before WHERE deleted_at IS NULL AND status IS NOT NULL
            UNION ALL
            SELECT 'own', status, 1 FROM after WHERE deleted_at IS NULL AND status IS NOT NULL
        ) AS changes
        GROUP BY dimension, value
        HAVING sum(number) <> 0;
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER tasks_inserted AFTER INSERT ON tasks
REFERENCING NEW TABLE AS after FOR EACH STATEMENT EXECUTE FUNCTION count_tasks();
CREATE TRIGGER tasks_updated AFTER UPDATE ON tasks
REFERENCING OLD TABLE AS before NEW TABLE AS after FOR EACH STATEMENT EXECUTE FUNCTION count_tasks();
CREATE TRIGGER tasks_deleted AFTER DELETE ON tasks
REFERENCING OLD TABLE AS before FOR EACH STATEMENT EXECUTE FUNCTION count_tasks();

CREATE FUNCTION count_runs() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO task_deltas (dimension, value, number)
        SELECT 'run', status_of_outcome(outcome), count(*) FROM after WHERE final AND NOT hidden GROUP BY 2;
    ELSIF TG_OP = 'DELETE' THEN
        INSERT INTO task_deltas (dimension, value, number)
        SELECT 'run', status_of_outcome(outcome), -count(*) FROM before WHERE final AND NOT hidden GROUP BY 2;
    ELSE
        INSERT INTO task_deltas (dimension, value, number)
        SELECT 'run', value, sum(number)
        FROM (
            SELECT status_of_outcome(outcome) AS value, -1 AS number FROM before WHERE final AND NOT hidden
            UNION ALL
            SELECT status_of_outcome(outcome), 1 FROM after WHERE final AND NOT hidden
        ) AS changes
        GROUP BY value
        HAVING sum(number) <> 0;
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER runs_inserted AFTER INSERT ON runs
REFERENCING NEW TABLE AS after FOR EACH STATEMENT EXECUTE FUNCTION count_runs();
CREATE TRIGGER runs_updated AFTER UPDATE ON runs
REFERENCING OLD TABLE AS before NEW TABLE AS after FOR EACH STATEMENT EXECUTE FUNCTION count_runs();
CREATE TRIGGER runs_deleted AFTER DELETE ON runs
REFERENCING OLD TABLE AS before FOR EACH STATEMENT EXECUTE FUNCTION count_runs();

-- No trigger for updates: a claim must cost nothing. A task that moves to another queue is counted by update.sql.
CREATE FUNCTION count_queue() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO task_deltas (dimension, value, number) SELECT 'queue', queue, count(*) FROM after GROUP BY queue;
    ELSE
        INSERT INTO task_deltas (dimension, value, number) SELECT 'queue', queue, -count(*) FROM before GROUP BY queue;
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER queue_inserted AFTER INSERT ON queue
REFERENCING NEW TABLE AS after FOR EACH STATEMENT EXECUTE FUNCTION count_queue();
CREATE TRIGGER queue_deleted AFTER DELETE ON queue
REFERENCING OLD TABLE AS before FOR EACH STATEMENT EXECUTE FUNCTION count_queue();

-- What is there already. The locks that the triggers took keep writers out until this transaction ends.
INSERT INTO task_counts (dimension, value, number)
SELECT 'priority', priority::text, count(*) FROM tasks WHERE deleted_at IS NULL GROUP BY priority
UNION ALL
SELECT 'own', status, count(*) FROM tasks WHERE deleted_at IS NULL AND status IS NOT NULL GROUP BY status
UNION ALL
SELECT 'run', status_of_outcome(outcome), count(*) FROM runs WHERE final AND NOT hidden GROUP BY 2
UNION ALL
SELECT 'queue', queue, count(*) FROM queue GROUP BY queue;

-- Rare rows that statistics look at.
CREATE INDEX queue_hidden ON queue (task_id) WHERE hidden;
CREATE INDEX queue_blocked ON queue (queue) WHERE state = 'blocked';
CREATE INDEX tasks_scheduled ON tasks (run_at) WHERE status = 'pending' AND run_at IS NOT NULL AND deleted_at IS NULL;

-- The words of a task, for the text search: lower case by Unicode's rules whatever the database's locale, cut at
-- punctuation (the parser alone takes `a/b`, `x-1` and `e.org` for one word each, or for something else). What is long is
-- cut: a title that was imported may be of any length.
-- COST keeps the planner from computing it for every row; in PL/pgSQL, because it would look through an SQL function.
CREATE FUNCTION task_words(title text, description text) RETURNS tsvector
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE COST 10000 AS $$
BEGIN
    RETURN to_tsvector(
        'pg_catalog.simple'::regconfig,
        translate(
            lower(left(title || ' ' || coalesce(description, ''), 20000) COLLATE "pg_c_utf8"),
            E'!"#$%&\'()*+,-./:;<=>?@[\\]^_`{|}~\u00a0\u00ab\u00b7\u00bb\u2010\u2011\u2012\u2013\u2014\u2018\u2019\u201c\u201d\u2026\u3000\u3001\u3002\uff0c',
            repeat(' ', 50)
        )
    );
END
$$;
CREATE INDEX tasks_words ON tasks USING gin (task_words(title, description))
WITH (fastupdate = on, gin_pending_list_limit = 256) WHERE deleted_at IS NULL;

-- One person's, one handler's, one status's, one priority's and another queue's tasks, in the order of the list that people
-- look at; other filters beside these are looked for along them. An index for each priority: one that begins with the
-- priority would also be taken for the order by priority, and a quarter of all tasks sorted by it.
DROP INDEX tasks_assigned_to, tasks_handler, tasks_status, tasks_status_priority;
CREATE INDEX tasks_assigned_to ON tasks (assigned_to, created_at, id)
WHERE assigned_to IS NOT NULL AND deleted_at IS NULL;
CREATE INDEX tasks_handler ON tasks (handler, created_at, id) WHERE handler IS NOT NULL AND deleted_at IS NULL;
CREATE INDEX tasks_status ON tasks (status, created_at, id) WHERE status IS NOT NULL AND deleted_at IS NULL;
CREATE INDEX tasks_urgent ON tasks (created_at, id) WHERE priority = 0 AND deleted_at IS NULL;
CREATE INDEX tasks_high ON tasks (created_at, id) WHERE priority = 1 AND deleted_at IS NULL;
CREATE INDEX tasks_medium ON tasks (created_at, id) WHERE priority = 2 AND deleted_at IS NULL;
CREATE INDEX tasks_low ON tasks (created_at, id) WHERE priority = 3 AND deleted_at IS NULL;
CREATE INDEX tasks_queue ON tasks (queue, created_at, id) WHERE queue <> 'default' AND deleted_at IS NULL;
-- The end of the list by due date: those that have none.
CREATE INDEX tasks_without_due_date ON tasks (id) WHERE due_date IS NULL AND deleted_at IS NULL;

-- Events in the order of their transactions.
CREATE INDEX task_history_transaction ON task_history (transaction_id, id);
CREATE INDEX runs_transaction ON runs (transaction_id, task_id);

-- As before, with the stamp.
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
    t.stamp
FROM tasks AS t
LEFT JOIN queue AS q ON q.task_id = t.id
LEFT JOIN LATERAL (
    SELECT * FROM runs WHERE runs.task_id = t.id ORDER BY fence DESC LIMIT 1
) AS r ON true;
