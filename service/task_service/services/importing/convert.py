"""Conversion of rows of the services A to E, one at a time. Pure; ids are stable across runs."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any
from uuid import UUID, uuid5

from task_service.domain.permissions import Role
from task_service.domain.priorities import Priority, parse_priority
from task_service.domain.statuses import Status, parse_status
from task_service.services.importing.schemas import Source

NAMESPACE = UUID("6c1f6b7e-4f0d-5c0e-9d55-7a1d2c3b4e5f")
"""Namespace of the derived ids. It must never change."""
NUMBER_MAX = 2**53
STATUS_WORDS = {
    "active": Status.PENDING, "open": Status.PENDING, "new": Status.PENDING, "todo": Status.PENDING,
    "created": Status.PENDING, "queued": Status.PENDING, "scheduled": Status.PENDING,
    "started": Status.IN_PROGRESS, "running": Status.PROCESSING,
    "done": Status.COMPLETED, "complete": Status.COMPLETED, "finished": Status.COMPLETED,
    "closed": Status.COMPLETED,
    "canceled": Status.CANCELLED, "error": Status.FAILED,
}  # fmt: skip
PRIORITY_WORDS = {"normal": Priority.MEDIUM, "critical": Priority.URGENT}
ENDED = {Status.COMPLETED, Status.FAILED, Status.CANCELLED}
NO_PASSWORD = "!"  # noqa: S105 - no hash: nothing matches it
HASH_NAMES = (
    ("$2", "bcrypt"),
    ("$pbkdf2", "PBKDF2"),
    ("pbkdf2", "PBKDF2"),
    ("$5$", "SHA-256"),
    ("$6$", "SHA-512"),
)


class BadRowError(Exception):
    """A row cannot be imported. The message states the reason."""


@dataclass(frozen=True, slots=True)
class Conversion:
    """Options for all rows. `handler` runs service C's tasks; `note` receives changed values."""

    source: Source
    handler: str | None
    now: datetime
    note: Callable[[str], None]
    usernames: dict[str, str] = field(default_factory=dict)

    def key(self, kind: str, old: Any) -> UUID:
        """Return the row's UUID, or one derived from service, kind and old id."""
        try:
            return UUID(str(old))
        except ValueError:
            return uuid5(NAMESPACE, f"{self.source.letter}/{kind}/{old}")

    def number(self, old: Any) -> int | None:
        """Return the integer id, if the service exposes it."""
        is_number = isinstance(old, int) and not isinstance(old, bool) and 0 < old <= NUMBER_MAX
        return old if self.source.keeps_numbers and is_number else None

    def person(self, value: Any) -> str | None:
        """Return a user's name for a name or id."""
        text = _text(value)
        return self.usernames.get(text, text) if text else None


def convert_user(given: Mapping[str, Any], how: Conversion) -> dict[str, Any]:
    """Convert a user. Only Argon2 hashes can be verified; other passwords must be set again."""
    name = (_text(given.get("username")) or "").strip()
    if not name:
        raise BadRowError("the username is empty")
    how.usernames[str(given["id"])] = name
    role, known = str(given.get("role") or "").strip().lower(), set(Role)
    if role not in known:
        how.note(f"user {name}: unknown role {role[:50]!r}, imported as viewer")
    stored = _text(given.get("password_hash")) or ""
    if not stored.startswith("$argon2"):
        kind = next((label for start, label in HASH_NAMES if stored.startswith(start)), "unknown")
        how.note(f"user {name}: unsupported password hash ({kind}); set the password again")
    active = given.get("is_active") is not False and given.get("is_disabled") is not True
    created = _moment(given, "created_at") or how.now
    return {
        "id": how.key("user", given["id"]),
        "username": name,
        "password_hash": stored if stored.startswith("$argon2") else NO_PASSWORD,
        "role": role if role in known else Role.VIEWER,
        "disabled_at": None if active else how.now,
        "created_at": created,
    }


def convert_task(given: Mapping[str, Any], how: Conversion) -> dict[str, Any]:
    """Convert a task, with `outcome` if a worker ended it. Lengths are not limited."""
    title = _text(given.get("title")) or ""
    if not title.strip():
        raise BadRowError("the title is empty")
    status = _status_of_task(given)
    created = _moment(given, "created_at") or how.now
    updated = _moment(given, "updated_at") or created
    by_workers = how.source.letter == "c"
    if status is Status.PROCESSING:  # its instance no longer exists
        status = Status.PENDING if by_workers else Status.IN_PROGRESS
    deleted = _moment(given, "deleted_at") or (updated if given.get("is_deleted") is True else None)
    if deleted and status not in ENDED:
        status = Status.CANCELLED
    ended = _moment(given, "processed_at") or updated
    instance = _uuid(given.get("processing_instance_id"))
    by_run = by_workers and instance is not None and status in (Status.COMPLETED, Status.FAILED)
    handler = how.handler if by_workers else None
    queued = handler is not None and status is Status.PENDING
    return {
        "id": how.key("task", given["id"]),
        "number": how.number(given["id"]),
        "title": title,
        "description": _text(given.get("description")),
        "status": None if by_run or queued else status,
        "shown": status,
        "status_at": ended if status in ENDED else updated,
        "priority": _priority(given, how).rank,
        "assigned_to": _text(given.get("assigned_to")),
        "due_date": _moment(given, "due_date"),
        "tags": _tags(given.get("tags")),
        "handler": handler,
        "queued": queued,
        "created_by": how.person(given.get("created_by")),
        "created_at": created,
        "updated_at": updated,
        "deleted_at": deleted,
        "outcome": status if by_run else None,
        "worker_id": instance if by_run else None,
        "error": _text(given.get("error")) if by_run else None,
        "reason": f"imported from service {how.source.letter.upper()}, id {given['id']}",
    }


def convert_conversation(given: Mapping[str, Any], how: Conversion) -> dict[str, Any]:
    """Convert a conversation. A text body stays text."""
    if given.get("body") is None:
        raise BadRowError("the body is empty")
    word = str(given.get("status") or "").strip().lower()
    processed = given.get("status") is True or word in ("processed", "completed", "done")
    created = _moment(given, "created_at") or how.now
    ended = _moment(given, "processed_at")
    return {
        "id": how.key("conversation", given["id"]),
        "number": how.number(given["id"]),
        "task_id": how.key("task", given["task_id"]),
        "body": given["body"],
        "status": "processed" if processed or (not word and ended) else "pending",
        "created_at": created,
        "updated_at": _moment(given, "updated_at") or ended or created,
        "processed_at": ended,
    }


def convert_history(given: Mapping[str, Any], how: Conversion) -> dict[str, Any]:
    """Convert an entry of the audit log."""
    at = _moment(given, "timestamp")
    if at is None:
        raise BadRowError("the time is missing")
    previous, new = (_status_in_log(given.get(name)) for name in ("previous_status", "new_status"))
    if new is None:
        raise BadRowError("the new status is missing")
    return {
        "task_id": how.key("task", given["task_id"]),
        "previous_status": previous,
        "new_status": new,
        "changed_by": how.person(given.get("modified_by")),
        "reason": _text(given.get("reason")),
        "at": at,
    }


def convert_log_entry(given: Mapping[str, Any], how: Conversion) -> dict[str, Any]:
    """Convert an entry of the daily log."""
    try:
        day = date.fromisoformat(str(given.get("date"))[:10])
    except ValueError:
        raise BadRowError("invalid date") from None
    return {
        "id": how.key("log", given["id"]),
        "number": how.number(given["id"]),
        "task_id": how.key("task", given["task_id"]),
        "date": day,
        "title": _text(given.get("title")),
        "status": _status_in_log(given.get("status")) or Status.PENDING,
        "created_at": _moment(given, "created_at")
        or datetime(day.year, day.month, day.day, tzinfo=UTC),
    }


def convert_setting(given: Mapping[str, Any], how: Conversion) -> dict[str, Any]:
    """Convert an application setting. JSON in text stays text."""
    key = _text(given.get("key")) or ""
    if not key.strip():
        raise BadRowError("the key is empty")
    if given.get("value") is None:
        raise BadRowError("the value is empty")
    updated = _moment(given, "updated_at") or how.now
    return {
        "key": key,
        "value": given["value"],
        "description": _text(given.get("description")),
        "updated_at": updated,
    }


def read_status(word: str) -> Status:
    """Parse a status of any of the services.

    >>> [read_status(w).value for w in ("IN_PROGRESS", "active", "Done", "canceled")]
    ['in_progress', 'pending', 'completed', 'cancelled']
    """
    plain = word.strip().lower()
    return STATUS_WORDS.get(plain) or parse_status(word)


def _status_of_task(given: Mapping[str, Any]) -> Status:
    word = given.get("status")
    if word is None or isinstance(word, bool):
        return (
            Status.COMPLETED if word is True or given.get("completed") is True else Status.PENDING
        )
    try:
        return read_status(str(word))
    except ValueError as error:
        raise BadRowError(str(error)) from None


def _status_in_log(word: Any) -> str | None:
    """Return a past status: ours if known, else the service's own word."""
    if word is None or not str(word).strip():
        return None
    try:
        return read_status(str(word)).value
    except ValueError:
        return str(word).strip().lower()[:50]


def _priority(given: Mapping[str, Any], how: Conversion) -> Priority:
    word = given.get("priority")
    if word is None:
        return Priority.MEDIUM
    plain = str(word).strip().lower()
    try:
        return PRIORITY_WORDS.get(plain) or parse_priority(plain)
    except ValueError:
        how.note(f"task {given['id']}: unknown priority {plain[:50]!r}, imported as medium")
        return Priority.MEDIUM


def _tags(value: Any) -> list[str]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            value = re.split("[,;|]", value)
    if not isinstance(value, list):
        return []
    kept: dict[str, str] = {}
    for tag in value:
        if tag is not None and (text := str(tag).strip()):
            kept.setdefault(text.casefold(), text)
    return list(kept.values())


def _moment(given: Mapping[str, Any], name: str) -> datetime | None:
    """Parse a time. Without a zone it is UTC; a date is midnight. Raises BadRowError."""
    value = given.get(name)
    if value is None or isinstance(value, bool):
        return None
    try:
        moment = datetime.fromisoformat(str(value))
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise BadRowError(f"invalid time in {name}: {str(value)[:50]!r}") from None


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _uuid(value: Any) -> UUID | None:
    try:
        return UUID(str(value)) if value else None
    except ValueError:
        return None
