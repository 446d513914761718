"""Tasks as rows of CSV: which columns there are, what cells say, and how they are kept from being formulas. Pure.

Spreadsheets run a cell that begins with one of ``= + - @`` as a formula. An export puts an apostrophe before such a
cell, as spreadsheets themselves do, and an import takes it away again, so that a file can go back and forth.
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
    "title", "description", "status", "priority", "assigned_to", "due_date", "tags", "handler", "payload", "queue",
    "run_at", "max_attempts", "timeout_seconds", "limit_key",
)  # fmt: skip
"""What a file may say of a task; only the title is required."""
MADE_HERE = (
    "id", "attempt", "error", "created_by", "created_at", "updated_at", "processed_at", "conversation_count", "version",
)  # fmt: skip
"""What an export tells besides; an import passes over these columns."""
GIVEN = ("unique_key", "unique_seconds")
"""What a file may say besides, and no export tells: the key is not the task's, but whose it is now."""
READ = frozenset((*COLUMNS, *GIVEN))
INTEGERS = ("max_attempts", "timeout_seconds", "unique_seconds")
READ_AS_PENDING = {Status.SCHEDULED.value, Status.PROCESSING.value, "active"}
"""What an export may tell of, and service D's word for it; run_at and the workers decide what comes of such a task."""
FORMULA = re.compile("'*[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
MOMENT: TypeAdapter[datetime] = TypeAdapter(Moment)


class CellError(Exception):
    """A cell that cannot be read; the message says why."""

    def __init__(self, column: str, message: str) -> None:
        super().__init__(message)
        self.column = column
        self.message = message


def guard(cell: str) -> str:
    """Make a cell plain text for a spreadsheet.

    >>> guard("=1+1"), guard("'=1+1"), guard("it's"), unguard(guard("'=1+1"))
    ("'=1+1", "''=1+1", "it's", "'=1+1")
    """
    return f"'{cell}" if FORMULA.match(cell) else cell


def unguard(cell: str) -> str:
    """Undo `guard`."""
    return cell[1:] if cell.startswith("'") and FORMULA.match(cell) else cell


def join_tags(tags: list[str]) -> str:
    """Tags in one cell, separated by semicolons; as a JSON list when one of them has a separator in it.

    >>> join_tags(["home", "garden"]), join_tags(["a;b"])
    ('home;garden', '["a;b"]')
    """
    text = ";".join(tags)
    plain = not any(";" in tag or "|" in tag for tag in tags) and not text.startswith("[")
    return text if plain else json.dumps(tags, ensure_ascii=False)


def split_tags(cell: str) -> list[str]:
    """Read tags: separated by ``;`` or ``|``, or a JSON list.

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
    """The fields of a task (`services.inputs.NewTask`) that a row gives; an empty cell gives none. Raises CellError."""
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
    """When the row's due date must be later than: now, or when an exported task was created. Raises CellError."""
    if not row.get("created_at"):
        return now
    try:
        return min(now, MOMENT.validate_python(row["created_at"]))
    except ValueError:
        raise CellError("created_at", "must be a time such as 2030-01-31T12:00:00Z") from None


def write_cells(task: TaskRow, payload: str | None) -> list[str]:
    """The cells of a task, in the order of `COLUMNS` and `MADE_HERE`; `payload` is JSON text."""
    values = {
        "priority": BY_RANK[task.priority],
        "tags": join_tags(task.tags),
        "payload": payload,
        "status": task.status,
    }
    return [
        guard(_text(values[n] if n in values else getattr(task, n))) for n in (*COLUMNS, *MADE_HERE)
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
