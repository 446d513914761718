"""The tables as SQLAlchemy sees them, for queries. The migrations make them; a test compares both."""

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Date,
    DateTime,
    Double,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.types import UserDefinedType

from task_service.domain.priorities import Priority

metadata = MetaData()
Time = DateTime(timezone=True)


class Xid8(UserDefinedType[str]):
    """PostgreSQL's 64-bit transaction id."""

    cache_ok = True

    def get_col_spec(self, **_: object) -> str:
        """The type's name in SQL."""
        return "xid8"


schema_state = Table(
    "schema_state",
    metadata,
    Column(
        "only_row",
        Boolean,
        CheckConstraint("only_row"),
        primary_key=True,
        server_default=text("true"),
    ),
    Column("revision", Integer, nullable=False),
    Column("oldest_code", Integer, nullable=False),
    Column("migrated_at", Time, nullable=False, server_default=text("clock_timestamp()")),
)

tasks = Table(
    "tasks",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("number", BigInteger, Identity(always=True), nullable=False, unique=True),
    Column("title", Text, nullable=False),
    Column("description", Text),
    Column("status", Text),
    Column("priority", SmallInteger, nullable=False, server_default="2"),
    Column("assigned_to", Text),
    Column("due_date", Time),
    Column("tags", ARRAY(Text), nullable=False, server_default="{}"),
    Column("handler", Text),
    Column("payload", JSONB(none_as_null=True)),
    Column("queue", Text, nullable=False, server_default="default"),
    Column("run_at", Time),
    Column("max_attempts", SmallInteger, nullable=False, server_default="5"),
    Column("timeout_seconds", Integer),
    Column("version", Integer, nullable=False, server_default="1"),
    Column("created_by", Text),
    Column("created_at", Time, nullable=False, server_default=text("now()")),
    Column("updated_at", Time, nullable=False, server_default=text("now()")),
    Column("status_at", Time),
    Column("deleted_at", Time),
    Column("stamp", BigInteger, nullable=False, server_default="1"),
    Column("limit_key", Text),
)
LIVE = "deleted_at IS NULL"
SET_BY_PERSON = f"status IS NOT NULL AND {LIVE}"
Index(
    "tasks_status",
    tasks.c.status,
    tasks.c.created_at,
    tasks.c.id,
    postgresql_where=text(SET_BY_PERSON),
)
Index("tasks_priority", tasks.c.priority, tasks.c.id, postgresql_where=text(LIVE))
Index(
    "tasks_assigned_to",
    tasks.c.assigned_to,
    tasks.c.created_at,
    tasks.c.id,
    postgresql_where=text(f"assigned_to IS NOT NULL AND {LIVE}"),
)
Index(
    "tasks_due_date",
    tasks.c.due_date,
    tasks.c.id,
    postgresql_where=text(f"due_date IS NOT NULL AND {LIVE}"),
)
Index("tasks_updated_at", tasks.c.updated_at, tasks.c.id, postgresql_where=text(LIVE))
Index("tasks_created_at", tasks.c.created_at, tasks.c.id, postgresql_where=text(LIVE))
for _priority in Priority:
    Index(
        f"tasks_{_priority}",
        tasks.c.created_at,
        tasks.c.id,
        postgresql_where=text(f"priority = {_priority.rank} AND {LIVE}"),
    )
Index(
    "tasks_handler",
    tasks.c.handler,
    tasks.c.created_at,
    tasks.c.id,
    postgresql_where=text(f"handler IS NOT NULL AND {LIVE}"),
)
Index(
    "tasks_queue",
    tasks.c.queue,
    tasks.c.created_at,
    tasks.c.id,
    postgresql_where=text(f"queue <> 'default' AND {LIVE}"),
)
Index("tasks_without_due_date", tasks.c.id, postgresql_where=text(f"due_date IS NULL AND {LIVE}"))
Index(
    "tasks_words",
    func.task_words(tasks.c.title, tasks.c.description),
    postgresql_using="gin",
    postgresql_with={"fastupdate": "on", "gin_pending_list_limit": 256},
    postgresql_where=text(LIVE),
)
Index(
    "tasks_scheduled",
    tasks.c.run_at,
    postgresql_where=text(f"status = 'pending' AND run_at IS NOT NULL AND {LIVE}"),
)
Index(
    "tasks_tags",
    tasks.c.tags,
    postgresql_using="gin",
    postgresql_where=text(f"{LIVE} AND tags <> '{{}}'"),
)

queue = Table(
    "queue",
    metadata,
    Column("task_id", Uuid, primary_key=True),
    Column("queue", Text, nullable=False),
    Column("priority", SmallInteger, nullable=False),
    Column("run_at", Time, nullable=False),
    Column("state", Text, nullable=False, server_default="ready"),
    Column("attempt", SmallInteger, nullable=False, server_default="0"),
    Column("losses", SmallInteger, nullable=False, server_default="0"),
    Column("alone", Boolean, nullable=False, server_default=text("false")),
    Column("started", Boolean, nullable=False, server_default=text("false")),
    Column("max_attempts", SmallInteger, nullable=False),
    Column("timeout_seconds", Integer),
    Column("fence", BigInteger, nullable=False, server_default="0"),
    Column("worker_id", Uuid),
    Column("claimed_at", Time),
    Column("deadline", Time),
    Column("cancel_requested_at", Time),
    Column("handler", Text, nullable=False),
    Column("limit_key", Text),
    Column("trace_context", Text),
    Column("hidden", Boolean, nullable=False, server_default=text("false")),
    Column("limited", Boolean, nullable=False, server_default=text("false")),
    Column("progress", Double),
    Column("progress_note", Text),
    Column("progress_at", Time),
    Column("awaited", Boolean, nullable=False, server_default=text("false")),
    Column("waits", Boolean, nullable=False, server_default=text("false")),
)
READY = "state = 'ready'"
Index(
    "queue_ready",
    queue.c.queue,
    queue.c.priority,
    queue.c.run_at,
    postgresql_where=text(f"{READY} AND NOT alone"),
)
Index("queue_alone", queue.c.queue, queue.c.run_at, postgresql_where=text(f"{READY} AND alone"))
Index("queue_running", queue.c.worker_id, postgresql_where=text("state = 'running'"))
Index("queue_hidden", queue.c.task_id, postgresql_where=text("hidden"))
Index(
    "queue_blocked",
    queue.c.queue,
    func.coalesce(queue.c.limit_key, text("''")),
    queue.c.priority,
    queue.c.run_at,
    postgresql_where=text("state = 'blocked' AND NOT waits"),
)
Index("queue_waits", queue.c.queue, postgresql_where=text("waits"))
Index("queue_admitted", queue.c.queue, postgresql_where=text("limited AND state <> 'blocked'"))
Index(
    "queue_admitted_keys",
    queue.c.limit_key,
    postgresql_where=text("limit_key IS NOT NULL AND state <> 'blocked'"),
)

dependencies = Table(
    "dependencies",
    metadata,
    Column("task_id", Uuid, primary_key=True),
    Column("needs", Uuid, primary_key=True),
    Column("cancels", Boolean, nullable=False),
)
Index("dependencies_needs", dependencies.c.needs)

ended_needs = Table(
    "ended_needs",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("task_id", Uuid, nullable=False),
)

runs = Table(
    "runs",
    metadata,
    Column("task_id", Uuid, nullable=False),
    Column("fence", BigInteger, nullable=False),
    Column("attempt", SmallInteger, nullable=False),
    Column("worker_id", Uuid),
    Column("claimed_at", Time),
    Column("finished_at", Time, nullable=False, server_default=text("clock_timestamp()")),
    Column("outcome", Text, nullable=False),
    Column("reason", Text),
    Column("final", Boolean, nullable=False),
    Column("result", JSONB(none_as_null=True)),
    Column("error", Text),
    Column("hidden", Boolean, nullable=False, server_default=text("false")),
    Column("reopened", Boolean, nullable=False, server_default=text("false")),
    Column("transaction_id", Xid8, server_default=text("pg_current_xact_id()")),
    PrimaryKeyConstraint("task_id", "fence"),
)
Index("runs_transaction", runs.c.transaction_id, runs.c.task_id)
Index("runs_final", runs.c.outcome, runs.c.task_id, postgresql_where=text("final"))
Index("runs_lost", runs.c.worker_id, postgresql_where=text("outcome = 'lost'"))
Index("runs_finished_at", runs.c.finished_at, runs.c.task_id, runs.c.fence)

workers = Table(
    "workers",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("state", Text, nullable=False, server_default="active"),
    Column("host", Text, nullable=False),
    Column("pod_name", Text),
    Column("pod_uid", Text),
    Column("container", Text),
    Column("slot", Text, nullable=False),
    Column("node", Text),
    Column("version", Text, nullable=False),
    Column("queues", ARRAY(Text), nullable=False),
    Column("concurrency", Integer, nullable=False),
    Column("lease_seconds", Double, nullable=False),
    Column("process_started_at", Time, nullable=False),
    Column("registered_at", Time, nullable=False, server_default=text("clock_timestamp()")),
    Column("heartbeat_at", Time, nullable=False, server_default=text("clock_timestamp()")),
    Column("drained_reason", Text),
    Column("dead_at", Time),
    Column("dead_reason", Text),
    Column("released_at", Time),
)
Index("workers_slot", workers.c.host, workers.c.slot, postgresql_where=text("released_at IS NULL"))
Index("workers_dead", workers.c.dead_at, postgresql_where=text("dead_at IS NOT NULL"))

conversations = Table(
    "conversations",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("number", BigInteger, Identity(always=True), nullable=False, unique=True),
    Column("task_id", Uuid, ForeignKey("tasks.id", ondelete="CASCADE"), nullable=False),
    Column("body", JSONB, nullable=False),
    Column("status", Text, nullable=False, server_default="pending"),
    Column("created_at", Time, nullable=False, server_default=text("now()")),
    Column("updated_at", Time, nullable=False, server_default=text("now()")),
    Column("processed_at", Time),
)
Index("conversations_task", conversations.c.task_id, conversations.c.number)

task_history = Table(
    "task_history",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("task_id", Uuid, nullable=False),
    Column("previous_status", Text),
    Column("new_status", Text, nullable=False),
    Column("changed_by", Text),
    Column("reason", Text),
    Column("fields", ARRAY(Text), nullable=False, server_default="{}"),
    Column("at", Time, nullable=False, server_default=text("clock_timestamp()")),
    Column("transaction_id", Xid8, nullable=False, server_default=text("pg_current_xact_id()")),
)
Index("task_history_transaction", task_history.c.transaction_id, task_history.c.id)
Index("task_history_task", task_history.c.task_id, task_history.c.id)
Index("task_history_at", task_history.c.at, task_history.c.task_id, task_history.c.id)
Index(
    "task_history_changed_by",
    task_history.c.changed_by,
    task_history.c.at,
    task_history.c.task_id,
    task_history.c.id,
)

users = Table(
    "users",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("username", Text, nullable=False),
    Column("password_hash", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("token_version", Integer, nullable=False, server_default="1"),
    Column("disabled_at", Time),
    Column("created_by", Text),
    Column("created_at", Time, nullable=False, server_default=text("now()")),
    Column("updated_at", Time, nullable=False, server_default=text("now()")),
    Column("last_login_at", Time),
)
Index("users_username", func.lower(users.c.username), unique=True)

refresh_tokens = Table(
    "refresh_tokens",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("user_id", Uuid, ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
    Column("current", Uuid, nullable=False),
    Column("expires_at", Time, nullable=False),
    Column("used_at", Time),
    Column("revoked_at", Time),
    Column("created_at", Time, nullable=False, server_default=text("now()")),
)
Index("refresh_tokens_user", refresh_tokens.c.user_id)
Index("refresh_tokens_expires", refresh_tokens.c.expires_at)

settings = Table(
    "settings",
    metadata,
    Column("key", Text, primary_key=True),
    Column("value", JSONB, nullable=False),
    Column("description", Text),
    Column("version", Integer, nullable=False, server_default="1"),
    Column("updated_by", Text),
    Column("created_at", Time, nullable=False, server_default=text("now()")),
    Column("updated_at", Time, nullable=False, server_default=text("now()")),
)

schedules = Table(
    "schedules",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("cron", Text, nullable=False),
    Column("time_zone", Text, nullable=False, server_default="UTC"),
    Column("action", Text, nullable=False, server_default="task"),
    Column("template", JSONB(none_as_null=True)),
    Column("catch_up", Text, nullable=False, server_default="last"),
    Column("enabled", Boolean, nullable=False, server_default=text("true")),
    Column("next_run_at", Time),
    Column("last_run_at", Time),
    Column("last_task_id", Uuid),
    Column("last_error", Text),
    Column("version", Integer, nullable=False, server_default="1"),
    Column("created_by", Text),
    Column("created_at", Time, nullable=False, server_default=text("now()")),
    Column("updated_at", Time, nullable=False, server_default=text("now()")),
)
Index(
    "schedules_due",
    schedules.c.next_run_at,
    postgresql_where=text("enabled AND next_run_at IS NOT NULL"),
)

daily_log = Table(
    "daily_log",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("number", BigInteger, Identity(always=True), nullable=False, unique=True),
    Column("date", Date, nullable=False),
    Column("task_id", Uuid, ForeignKey("tasks.id", ondelete="CASCADE"), nullable=False),
    Column("title", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("assigned_to", Text),
    Column("created_at", Time, nullable=False, server_default=text("now()")),
    UniqueConstraint("date", "task_id"),
)
Index("daily_log_task", daily_log.c.task_id)
Index("daily_log_date", daily_log.c.date, daily_log.c.number)

daily_loads = Table(
    "daily_loads",
    metadata,
    Column("date", Date, primary_key=True),
    Column("entries", BigInteger, nullable=False, server_default="0"),
    Column("loaded_at", Time, nullable=False, server_default=text("now()")),
)

paused_queues = Table(
    "paused_queues",
    metadata,
    Column("name", Text, primary_key=True),
    Column("reason", Text),
    Column("paused_by", Text),
    Column("paused_at", Time, nullable=False, server_default=text("now()")),
)

limits = Table(
    "limits",
    metadata,
    Column("kind", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("concurrency", Integer),
    Column("rate", Integer),
    Column("period_seconds", Double),
    Column("tokens", Double, nullable=False, server_default="0"),
    Column("tokens_at", Time, nullable=False, server_default=text("clock_timestamp()")),
    Column("updated_by", Text),
    Column("updated_at", Time, nullable=False, server_default=text("now()")),
)

limits_looked_at = Table(
    "limits_looked_at",
    metadata,
    Column(
        "only_row",
        Boolean,
        CheckConstraint("only_row"),
        primary_key=True,
        server_default=text("true"),
    ),
    Column("at", Time, nullable=False, server_default=text("'-infinity'")),
)

limit_rooms = Table(
    "limit_rooms",
    MetaData(),
    *(Column(c.name, c.type) for c in limits.c if c.name not in ("tokens", "tokens_at")),
    Column("admitted", BigInteger),
    Column("unstarted", BigInteger),
    Column("tokens", Double),
)
"""The limits with what they allow at this moment; see the view in its migration."""

imports = Table(
    "imports",
    metadata,
    Column("digest", Text, primary_key=True),
    Column("file_name", Text),
    Column("rows", BigInteger, nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("skipped", BigInteger, nullable=False),
    Column("report", JSONB, nullable=False),
    Column("created_by", Text),
    Column("created_at", Time, nullable=False, server_default=text("now()")),
)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("caller", Text, primary_key=True),
    Column("route", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("digest", Text, nullable=False),
    Column("status", SmallInteger),
    Column("headers", JSONB),
    Column("body", LargeBinary),
    Column("created_at", Time, nullable=False, server_default=text("now()")),
)
Index("idempotency_keys_age", idempotency_keys.c.created_at)

unique_keys = Table(
    "unique_keys",
    metadata,
    Column("key", Text, primary_key=True),
    Column("task_id", Uuid, nullable=False),
    Column("expires_at", Time),
    Column("created_at", Time, nullable=False, server_default=text("now()")),
)
Index("unique_keys_age", unique_keys.c.created_at)

cache_outbox = Table(
    "cache_outbox",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("key", Text, nullable=False),
    Column("stamp", BigInteger, nullable=False),
    Column("created_at", Time, nullable=False, server_default=text("now()")),
)

task_counts = Table(
    "task_counts",
    metadata,
    Column("dimension", Text, primary_key=True),
    Column("value", Text, primary_key=True),
    Column("number", BigInteger, nullable=False),
)

task_deltas = Table(
    "task_deltas",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("dimension", Text, nullable=False),
    Column("value", Text, nullable=False),
    Column("number", BigInteger, nullable=False),
)

task_view = Table(
    "task_view",
    MetaData(),  # a view: kept apart, or Alembic would take it for a missing table
    *(
        Column(c.name, c.type, primary_key=c.primary_key)
        for c in tasks.c
        if c.name not in ("status_at", "stamp")
    ),
    Column("attempt", Integer),
    Column("fence", BigInteger),
    Column("result", JSONB),
    Column("error", Text),
    Column("outcome", Text),
    Column("reason", Text),
    Column("processed_at", Time),
    Column("processing_instance_id", Uuid),
    Column("claimed_at", Time),
    Column("cancel_requested_at", Time),
    Column("conversation_count", Integer),
    Column("stamp", BigInteger),
    Column("progress", Double),
    Column("progress_note", Text),
    Column("progress_at", Time),
    Column("waits_for", ARRAY(Uuid)),
)
"""A task with its derived status, attempt and outcome; see the view in the latest migration."""
