-- People and what they plan: users, tokens, settings, schedules, the daily log, imports, pauses, idempotency keys, the
-- cache's outbox. What each table is for: docs of `store.tables`.

-- `stamp` rises with everything that a reader of the task could see change, conversations included; `version` only with
-- what an editor's If-Match is about. The cache compares stamps.
ALTER TABLE tasks ADD COLUMN stamp bigint NOT NULL DEFAULT 1;

-- A soft delete of a task that a worker holds hides it; its run is recorded, hidden too.
ALTER TABLE queue ADD COLUMN hidden boolean NOT NULL DEFAULT false;
ALTER TABLE runs ADD COLUMN hidden boolean NOT NULL DEFAULT false;

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

-- A refresh token is used once: its use makes the next one of the same family. One that comes back after its use was
-- stolen, and ends the family.
CREATE TABLE refresh_tokens (
    id uuid PRIMARY KEY,
    family uuid NOT NULL,
    user_id uuid NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    expires_at timestamptz NOT NULL,
    used_at timestamptz,
    revoked_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX refresh_tokens_family ON refresh_tokens (family);
CREATE INDEX refresh_tokens_user ON refresh_tokens (user_id);
CREATE INDEX refresh_tokens_expires ON refresh_tokens (expires_at);

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
    task_id uuid NOT NULL,
    stamp bigint NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

-- Numbers of tasks by what they are, for statistics without counting: `task_deltas` gets a row per statement that
-- changes a number, and maintenance folds them into `task_counts`. The truth is the sum of both.
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
);

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
