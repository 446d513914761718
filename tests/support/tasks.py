"""Tasks, workers and limits inserted directly into the database."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import asyncpg
import orjson

from task_service.domain.ids import new_id
from task_service.queue import workers
from task_service.queue.entries import Entry, enqueue
from task_service.queue.wakeups import Wakeups
from task_service.queue.workers import WorkerRow


async def _send_nothing(_: list[str]) -> None:
    """Send no notification outside the transaction."""


def quiet_wakeups() -> Wakeups:
    """Return notifications that are always sent inside the transaction."""
    ticks = iter(range(1_000_000))
    return Wakeups(_send_nothing, clock=lambda: float(next(ticks)))


async def add_tasks(
    connection: asyncpg.Connection,
    count: int = 1,
    *,
    handler: str = "noop",
    payload: Any = None,
    **entry: Any,
) -> list[UUID]:
    """Insert tasks with a queue row each; `entry` overrides fields of `Entry`."""
    ids = [new_id() for _ in range(count)]
    text = None if payload is None else orjson.dumps(payload).decode()
    async with connection.transaction():
        await connection.execute(
            "INSERT INTO tasks (id, title, handler, payload, queue) "
            "SELECT unnest($1::uuid[]), 'a task', $2, $3::jsonb, $4",
            ids, handler, text, entry.get("queue", "default"),
        )  # fmt: skip
        entries = [_entry(i, handler, entry) for i in ids]
        await enqueue(connection, entries, quiet_wakeups())
    return ids


def _entry(task_id: UUID, handler: str, overrides: dict[str, Any]) -> Entry:
    defaults: dict[str, Any] = {
        "queue": "default",
        "priority": 2,
        "run_at": None,
        "max_attempts": 5,
        "timeout_seconds": None,
    }
    return Entry(task_id=task_id, handler=handler, **(defaults | overrides))


async def add_worker(
    connection: asyncpg.Connection, *, slot: str | None = None, lease_seconds: float = 15.0
) -> UUID:
    """Register a worker that has only a database row."""
    worker_id = new_id()
    row = WorkerRow(
        id=worker_id,
        host="host",
        pod_name=None,
        pod_uid=None,
        container=None,
        slot=slot or str(worker_id),
        node=None,
        version="1",
        process_started_at=datetime.now(UTC),
        concurrency=20,
        queues=["default"],
        lease_seconds=lease_seconds,
    )
    await workers.register(connection, row)
    return worker_id


SET_LIMIT = """
    INSERT INTO limits (kind, name, concurrency, rate, period_seconds, tokens, updated_at)
    VALUES ($1, $2, $3, $4, $5, $6, now() - interval '1 hour')
    ON CONFLICT (kind, name) DO UPDATE
    SET concurrency = $3, rate = $4, period_seconds = $5, tokens = $6,
        updated_at = clock_timestamp()
"""


async def set_limit(connection: asyncpg.Connection, kind: str, name: str, **values: Any) -> None:
    """Set a limit that is an hour old, or replace one now; a rate starts with a full bucket."""
    fields = {"concurrency": None, "rate": None, "period_seconds": None} | values
    await connection.execute(SET_LIMIT, kind, name, *fields.values(), fields["rate"] or 0)


async def statuses(connection: asyncpg.Connection, ids: Sequence[UUID]) -> list[str]:
    """Return the derived statuses of these tasks, in the same order."""
    rows = await connection.fetch("SELECT id, status FROM task_view WHERE id = ANY ($1)", ids)
    by_id = {row["id"]: row["status"] for row in rows}
    return [by_id[i] for i in ids]
