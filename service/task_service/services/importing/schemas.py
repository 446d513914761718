"""The documented tables of the services A to E, and matching them with a database. Pure.

Names are compared without case. Aliases cover names in other releases. Other tables and columns are
reported and not read.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from task_service.store.importing.source import Reading

Letter = Literal["a", "b", "c", "d", "e"]
Columns = Mapping[str, Mapping[str, str]]
"""Tables of a database, with the types of their columns by name."""


class SchemaError(Exception):
    """The database is not one of the service. The message names what is missing."""


@dataclass(frozen=True, slots=True)
class Field:
    """A column with its aliases."""

    name: str
    aliases: tuple[str, ...] = ()
    required: bool = False


@dataclass(frozen=True, slots=True)
class Kind:
    """A table with its aliases and columns."""

    name: str
    aliases: tuple[str, ...]
    fields: tuple[Field, ...]


def _field(names: str) -> Field:
    """Parse `name* alias alias`. The star marks a required column."""
    name, *aliases = names.split()
    return Field(name.rstrip("*"), tuple(aliases), name.endswith("*"))


def _kind(names: str, *fields: str) -> Kind:
    name, *aliases = names.split()
    return Kind(name, tuple(aliases), tuple(_field(each) for each in fields))


TASKS = _kind(
    "tasks task",
    "id* task_id uuid", "title* name task_title", "description details", "status state",
    "completed is_completed done",
    "priority", "assigned_to assignee", "due_date due_at deadline", "tags labels",
    "created_by created_by_id creator owner user_id", "created_at created created_on",
    "updated_at updated modified_at",
    "processed_at completed_at finished_at", "processing_instance_id instance_id worker_id",
    "error error_message",
    "is_deleted deleted", "deleted_at",
)  # fmt: skip
CONVERSATIONS = _kind(
    "conversations conversation task_conversations",
    "id* conversation_id", "task_id*", "body* content message text data",
    "status state processed is_processed",
    "created_at created timestamp", "updated_at updated", "processed_at",
)  # fmt: skip
USERS = _kind(
    "users user app_users",
    "id* user_id", "username* name login email", "password_hash* hashed_password password", "role",
    "is_active active", "is_disabled disabled", "created_at created",
)  # fmt: skip
AUDIT = _kind(
    "audit_log audit_logs audit task_audit_log task_audit_logs task_audit task_history",
    "id audit_id", "task_id*", "previous_status old_status from_status",
    "new_status* status to_status",
    "modified_by changed_by user_id actor", "timestamp* at modified_at changed_at created_at",
    "reason",
)  # fmt: skip
DAILY_LOG = _kind(
    "daily_log daily_logs task_log task_logs daily_task_log daily_task_logs",
    "id* log_id", "task_id*", "date* log_date day", "title", "status",
    "created_at created timestamp logged_at",
)  # fmt: skip
SETTINGS = _kind(
    "settings setting app_settings application_settings",
    "key* name setting_key", "value* setting_value", "description", "updated_at updated",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Source:
    """A service with its required and optional tables."""

    letter: Letter
    required: tuple[Kind, ...]
    optional: tuple[Kind, ...] = ()
    keeps_numbers: bool = False


SOURCES: dict[Letter, Source] = {
    "a": Source("a", (TASKS,)),
    "b": Source("b", (TASKS,), (SETTINGS,)),
    "c": Source("c", (TASKS, CONVERSATIONS), keeps_numbers=True),
    "d": Source("d", (TASKS, USERS), (AUDIT, DAILY_LOG), keeps_numbers=True),
    "e": Source("e", (TASKS,)),
}


@dataclass(frozen=True, slots=True)
class Found:
    """How to read each table, with notes about the parts that are not read."""

    readings: Mapping[str, Reading]
    notes: Sequence[str]


def find(source: Source, columns: Columns) -> Found:
    """Match a service's tables with those of a database. Raises SchemaError."""
    if "schema_state" in columns and "task_history" in columns:
        raise SchemaError(
            "this is a database of the task service itself, not of one of the services A to E"
        )
    readings, notes, missing = {}, [], []
    for kind in (*source.required, *source.optional):
        table = _pick((kind.name, *kind.aliases), columns)
        if table is None and kind in source.required:
            missing.append(f"the table {kind.name} (or {', '.join(kind.aliases)})")
        elif table is None:
            notes.append(f"the table {kind.name} does not exist, so it is not imported")
        else:
            reading = Reading(table, _match(kind, columns[table]), dict(columns[table]))
            missing += [f"{table}.{field}" for field in _lacking(kind, reading)]
            notes += [f"{table}.{name} is not read" for name in sorted(_extra(reading))]
            readings[kind.name] = reading
    if missing:
        raise SchemaError(
            f"this is not a database of service {source.letter.upper()}; "
            f"missing: {'; '.join(missing)}"
        )
    read = {reading.table for reading in readings.values()}
    notes += [f"the table {name} is not read" for name in sorted(set(columns) - read)]
    return Found(readings, notes)


def _pick(names: Sequence[str], present: Mapping[str, object]) -> str | None:
    by_lower = {name.lower(): name for name in present}
    return next((by_lower[name] for name in names if name in by_lower), None)


def _match(kind: Kind, columns: Mapping[str, str]) -> dict[str, str]:
    """Map our columns to those of the database. Each column is used once, by the first match."""
    left = dict(columns)
    matched = {}
    for fields in ([Field(f.name) for f in kind.fields], kind.fields):
        for field in fields:
            if field.name not in matched and (name := _pick((field.name, *field.aliases), left)):
                matched[field.name] = name
                del left[name]
    return matched


def _lacking(kind: Kind, reading: Reading) -> Iterator[str]:
    for field in kind.fields:
        if field.required and field.name not in reading.columns:
            yield f"{field.name} (or {', '.join(field.aliases)})" if field.aliases else field.name


def _extra(reading: Reading) -> set[str]:
    return set(reading.types) - set(reading.columns.values())
