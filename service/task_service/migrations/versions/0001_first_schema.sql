-- The first schema. What each table is for: docs of `store.tables`, and ARCHITECTURE.md.

-- Which code may run on this database (see `migrations.compatibility`).
CREATE TABLE schema_state (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    revision integer NOT NULL,
    oldest_code integer NOT NULL,
    migrated_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- What people see and change. A worker's run never updates it. `status` is what a person set; it is null while
-- the queue or a final run decides.
CREATE TABLE tasks (
    id uuid PRIMARY KEY,
    number bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
    title text NOT NULL,
    description text,
    status text CHECK (status IN ('pending', 'in_progress', 'completed', 'failed', 'cancelled')),
    priority smallint NOT NULL DEFAULT 2 CHECK (priority BETWEEN 0 AND 3),
    assigned_to text,
    due_date timestamptz,
    tags text[] NOT NULL DEFAULT '{}',
    handler text,
    payload jsonb,
    queue text NOT NULL DEFAULT 'default',
    run_at timestamptz,
    max_attempts smallint NOT NULL DEFAULT 5 CHECK (max_attempts BETWEEN 1 AND 100),
    timeout_seconds integer CHECK (timeout_seconds > 0),
    version integer NOT NULL DEFAULT 1,
    created_by text,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    status_at timestamptz,
    deleted_at timestamptz
);
CREATE INDEX tasks_status ON tasks (status, id) WHERE status IS NOT NULL AND deleted_at IS NULL;
CREATE INDEX tasks_priority ON tasks (priority, id) WHERE deleted_at IS NULL;
CREATE INDEX tasks_assigned_to ON tasks (assigned_to, id) WHERE assigned_to IS NOT NULL AND deleted_at IS NULL;
CREATE INDEX tasks_due_date ON tasks (due_date, id) WHERE due_date IS NOT NULL AND deleted_at IS NULL;
CREATE INDEX tasks_created_at ON tasks (created_at, id) WHERE deleted_at IS NULL;
CREATE INDEX tasks_updated_at ON tasks (updated_at, id) WHERE deleted_at IS NULL;
CREATE INDEX tasks_status_priority ON tasks (status, priority, id) WHERE status IS NOT NULL AND deleted_at IS NULL;
CREATE INDEX tasks_handler ON tasks (handler, id) WHERE handler IS NOT NULL AND deleted_at IS NULL;
CREATE INDEX tasks_tags ON tasks USING gin (tags) WHERE deleted_at IS NULL AND tags <> '{}';

-- The hot working set: one row per task that a worker must still run; deleted when the task ends.
CREATE TABLE queue (
    task_id uuid PRIMARY KEY,
    queue text NOT NULL,
    priority smallint NOT NULL,
    run_at timestamptz NOT NULL,
    state text NOT NULL DEFAULT 'ready' CHECK (state IN ('ready', 'running', 'blocked')),
    attempt smallint NOT NULL DEFAULT 0,
    losses smallint NOT NULL DEFAULT 0,
    alone boolean NOT NULL DEFAULT false,
    started boolean NOT NULL DEFAULT false,
    max_attempts smallint NOT NULL,
    timeout_seconds integer,
    fence bigint NOT NULL DEFAULT 0,
    worker_id uuid,
    claimed_at timestamptz,
    deadline timestamptz,
    cancel_requested_at timestamptz,
    handler text NOT NULL,
    limit_key text,
    trace_context text,
    CHECK ((state = 'running') = (worker_id IS NOT NULL))
) WITH (
    fillfactor = 70,
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_cost_delay = 0,
    autovacuum_analyze_scale_factor = 0.05
);
-- Serves the claim, and nothing else can: priority and run_at stand in no other index.
CREATE INDEX queue_ready ON queue (queue, priority, run_at) WHERE state = 'ready' AND NOT alone;
CREATE INDEX queue_alone ON queue (queue, run_at) WHERE state = 'ready' AND alone;
CREATE INDEX queue_running ON queue (worker_id) WHERE state = 'running';

-- One row per finished attempt. `final` marks the one that decides the task's status; a task has one of: a row in
-- `queue`, a final run, a status of its own.
CREATE TABLE runs (
    task_id uuid NOT NULL,
    fence bigint NOT NULL,
    attempt smallint NOT NULL,
    worker_id uuid,
    claimed_at timestamptz,
    finished_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    outcome text NOT NULL,
    reason text,
    final boolean NOT NULL,
    result jsonb,
    error text,
    PRIMARY KEY (task_id, fence)
) WITH (autovacuum_vacuum_insert_scale_factor = 0.1);
CREATE INDEX runs_final ON runs (outcome, task_id) WHERE final;
CREATE INDEX runs_lost ON runs (worker_id) WHERE outcome = 'lost';

-- One row per worker process. The heartbeat is a HOT update: no index has a column that it changes.
CREATE TABLE workers (
    id uuid PRIMARY KEY,
    state text NOT NULL DEFAULT 'active' CHECK (state IN ('active', 'draining', 'dead')),
    host text NOT NULL,
    pod_name text,
    pod_uid text,
    container text,
    slot text NOT NULL,
    node text,
    version text NOT NULL,
    queues text[] NOT NULL,
    concurrency integer NOT NULL,
    lease_seconds double precision NOT NULL,
    process_started_at timestamptz NOT NULL,
    registered_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    heartbeat_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    drained_reason text,
    dead_at timestamptz,
    dead_reason text,
    released_at timestamptz
) WITH (fillfactor = 50, autovacuum_vacuum_threshold = 200, autovacuum_vacuum_scale_factor = 0.1);
CREATE INDEX workers_slot ON workers (host, slot) WHERE released_at IS NULL;
CREATE INDEX workers_dead ON workers (dead_at) WHERE dead_at IS NOT NULL;

CREATE TABLE conversations (
    id uuid PRIMARY KEY,
    number bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
    task_id uuid NOT NULL REFERENCES tasks (id) ON DELETE CASCADE,
    body jsonb NOT NULL,
    status text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'processed')),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    processed_at timestamptz
);
CREATE INDEX conversations_task ON conversations (task_id, number);

-- Changes by people. What workers did is in `runs`; `task_events` joins both.
CREATE TABLE task_history (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    task_id uuid NOT NULL,
    previous_status text,
    new_status text NOT NULL,
    changed_by text,
    reason text,
    fields text[] NOT NULL DEFAULT '{}',
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    transaction_id xid8 NOT NULL DEFAULT pg_current_xact_id()
);
CREATE INDEX task_history_task ON task_history (task_id, id);

-- The one place where a task's status is derived.
CREATE VIEW task_view AS
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
    t.version
FROM tasks AS t
LEFT JOIN queue AS q ON q.task_id = t.id
LEFT JOIN LATERAL (
    SELECT * FROM runs WHERE runs.task_id = t.id ORDER BY fence DESC LIMIT 1
) AS r ON true;
