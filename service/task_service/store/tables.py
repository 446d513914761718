"""The tables as SQLAlchemy sees them, for queries. The migrations make them; a test compares both."""

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Double,
    ForeignKey,
    Identity,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.types import UserDefinedType

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
    Column("only_row", Boolean, CheckConstraint("only_row"), primary_key=True, server_default=text("true")),
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
)
LIVE = "deleted_at IS NULL"
SET_BY_PERSON = f"status IS NOT NULL AND {LIVE}"
Index("tasks_status", tasks.c.status, tasks.c.id, postgresql_where=text(SET_BY_PERSON))
Index("tasks_priority", tasks.c.priority, tasks.c.id, postgresql_where=text(LIVE))
Index(
    "tasks_assigned_to", tasks.c.assigned_to, tasks.c.id, postgresql_where=text(f"assigned_to IS NOT NULL AND {LIVE}")
)
Index("tasks_due_date", tasks.c.due_date, tasks.c.id, postgresql_where=text(f"due_date IS NOT NULL AND {LIVE}"))
Index("tasks_updated_at", tasks.c.updated_at, tasks.c.id, postgresql_where=text(LIVE))
Index("tasks_created_at", tasks.c.created_at, tasks.c.id, postgresql_where=text(LIVE))
Index("tasks_status_priority", tasks.c.status, tasks.c.priority, tasks.c.id, postgresql_where=text(SET_BY_PERSON))
Index("tasks_handler", tasks.c.handler, tasks.c.id, postgresql_where=text(f"handler IS NOT NULL AND {LIVE}"))
Index("tasks_tags", tasks.c.tags, postgresql_using="gin", postgresql_where=text(f"{LIVE} AND tags <> '{{}}'"))

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
)
READY = "state = 'ready'"
Index("queue_ready", queue.c.queue, queue.c.priority, queue.c.run_at, postgresql_where=text(f"{READY} AND NOT alone"))
Index("queue_alone", queue.c.queue, queue.c.run_at, postgresql_where=text(f"{READY} AND alone"))
Index("queue_running", queue.c.worker_id, postgresql_where=text("state = 'running'"))

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
    PrimaryKeyConstraint("task_id", "fence"),
)
Index("runs_final", runs.c.outcome, runs.c.task_id, postgresql_where=text("final"))
Index("runs_lost", runs.c.worker_id, postgresql_where=text("outcome = 'lost'"))

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
Index("task_history_task", task_history.c.task_id, task_history.c.id)

task_view = Table(
    "task_view",
    MetaData(),  # a view: kept apart, or Alembic would take it for a missing table
    *(Column(c.name, c.type, primary_key=c.primary_key) for c in tasks.c if c.name != "status_at"),
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
)
"""A task with its derived status, attempt and outcome; see the view in the first migration."""
