"""Tasks as CSV rows: columns, cell formats and protection against formula injection. Pure.

Spreadsheets evaluate a cell that starts with one of ``= + - @`` as a formula. The export prefixes
such a cell with an apostrophe, as spreadsheets do, and the import removes it, so that an exported
file can be imported again.
"""

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from pydantic import TypeAdapter

from task_service.domain.priorities import BY_RANK
from task_service.domain.statuses import Status
from task_service.schemas.types import Moment
from task_service.store.tasks import TaskRow

COLUMNS = (
    "title", "description", "status", "priority", "assigned_to", "due_date", "tags", "handler",
    "payload", "queue",
    "run_at", "max_attempts", "timeout_seconds", "limit_key",
)  # fmt: skip
"""Columns that an import reads. Only the title is required."""
READ_ONLY = (
    "id", "attempt", "error", "created_by", "created_at", "updated_at", "processed_at",
    "conversation_count", "version",
)  # fmt: skip
"""Columns that only an export writes. An import ignores them."""
IMPORT_ONLY = ("unique_key", "unique_seconds")
"""Columns that only an import reads: a unique key is reserved by a task, not stored in it."""
READ = frozenset((*COLUMNS, *IMPORT_ONLY))
INTEGERS = ("max_attempts", "timeout_seconds", "unique_seconds")
READ_AS_PENDING = {Status.SCHEDULED.value, Status.PROCESSING.value, "active"}
"""Statuses that are imported as pending: derived ones, and service D's word for pending."""
FORMULA = re.compile("'*[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
MOMENT: TypeAdapter[datetime] = TypeAdapter(Moment)


class CellError(Exception):
    """A cell cannot be read. The message states the reason."""

    def __init__(self, column: str, message: str) -> None:
        super().__init__(message)
        self.column = column
        self.message = message


def guard(cell: str) -> str:
    """Protect a cell from evaluation as a formula.

    >>> guard("=1+1"), guard("'=1+1"), guard("it's"), unguard(guard("'=1+1"))
    ("'=1+1", "''=1+1", "it's", "'=1+1")
    """
    return f"'{cell}" if FORMULA.match(cell) else cell


def unguard(cell: str) -> str:
    """Reverse `guard`."""
    return cell[1:] if cell.startswith("'") and FORMULA.match(cell) else cell


def join_tags(tags: list[str]) -> str:
    """Join tags with semicolons, or as a JSON list if a tag contains a separator.

    >>> join_tags(["home", "garden"]), join_tags(["a;b"])
    ('home;garden', '["a;b"]')
    """
    text = ";".join(tags)
    plain = not any(";" in tag or "|" in tag for tag in tags) and not text.startswith("[")
    return text if plain else json.dumps(tags, ensure_ascii=False)


def split_tags(cell: str) -> list[str]:
    """Split tags separated by ``;`` or ``|``, or parse a JSON list.

    >>> split_tags("home; garden|x"), split_tags('["a;b"]'), split_tags("[draft")
    (['home', ' garden', 'x'], ['a;b'], ['[draft'])
    """
    if cell.startswith("["):
        try:
            tags = json.loads(cell)
        except (ValueError, RecursionError):
            tags = None
        if isinstance(tags, list) and all(isinstance(tag, str) for tag in tags):
            return tags
    return re.split("[;|]", cell)


def read_cells(row: Mapping[str, str]) -> dict[str, Any]:
    """Return the fields of `NewTask` in a row, without empty cells. Raises CellError."""
    fields: dict[str, Any] = {
        name: unguard(cell) for name, cell in row.items() if cell and name in READ
    }
    if "tags" in fields:
        fields["tags"] = split_tags(fields["tags"])
    if "payload" in fields:
        fields["payload"] = _read_json(fields["payload"])
    for name in INTEGERS:
        if name in fields and re.fullmatch(r"\s*[0-9]{1,9}\s*", fields[name]):
            fields[name] = int(fields[name])
    if fields.get("status", "").strip().lower() in READ_AS_PENDING:
        fields["status"] = Status.PENDING
    return fields


def due_from(row: Mapping[str, str], now: datetime) -> datetime:
    """Return the lower limit of the due date: now, or the creation of an exported task.

    Raises CellError.
    """
    if not row.get("created_at"):
        return now
    try:
        return min(now, MOMENT.validate_python(row["created_at"]))
    except ValueError:
        raise CellError("created_at", "must be a time such as 2030-01-31T12:00:00Z") from None


def write_cells(task: TaskRow, payload: str | None) -> list[str]:
    """Return a task's cells in the order of `COLUMNS` and `READ_ONLY`. `payload` is JSON text."""
    values = {
        "priority": BY_RANK[task.priority],
        "tags": join_tags(task.tags),
        "payload": payload,
        "status": task.status,
    }
    return [
        guard(_text(values[n] if n in values else getattr(task, n))) for n in (*COLUMNS, *READ_ONLY)
    ]


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    return str(value)


def _read_json(cell: str) -> Any:
    try:
        return json.loads(cell)
    except RecursionError:
        raise CellError("payload", "is nested too deeply") from None
    except ValueError as error:
        raise CellError("payload", f"must be JSON: {error}") from None
