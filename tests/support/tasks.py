"""Tasks and workers straight in the database, for tests of the queue and the worker."""

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


async def _unsent(_: list[str]) -> None:
    """Tests announce inside the transaction only."""


def quiet_wakeups() -> Wakeups:
    """Wake-ups that are sent inside the transaction, every time."""
    ticks = iter(range(1_000_000))
    return Wakeups(_unsent, clock=lambda: float(next(ticks)))


async def add_tasks(
    connection: asyncpg.Connection,
    count: int = 1,
    *,
    handler: str = "noop",
    payload: Any = None,
    **entry: Any,
) -> list[UUID]:
    """Create tasks with a queue row each; `entry` overrides fields of `Entry`."""
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


def _entry(task_id: UUID, handler: str, given: dict[str, Any]) -> Entry:
    defaults: dict[str, Any] = {
        "queue": "default",
        "priority": 2,
        "run_at": None,
        "max_attempts": 5,
        "timeout_seconds": None,
    }
    return Entry(task_id=task_id, handler=handler, **(defaults | given))


async def add_worker(
    connection: asyncpg.Connection, *, slot: str | None = None, lease_seconds: float = 15.0
) -> UUID:
    """Register a worker that is only a row."""
    worker_id = new_id()
    row = WorkerRow(
        id=worker_id, host="host", pod_name=None, pod_uid=None, container=None, slot=slot or str(worker_id), node=None,
        version="1", process_started_at=datetime.now(UTC), concurrency=20,
        queues=["default"], lease_seconds=lease_seconds,
    )  # fmt: skip
    await workers.register(connection, row)
    return worker_id


async def statuses(connection: asyncpg.Connection, ids: Sequence[UUID]) -> list[str]:
    """The derived statuses of these tasks, in their order."""
    rows = await connection.fetch("SELECT id, status FROM task_view WHERE id = ANY ($1)", ids)
    found = {row["id"]: row["status"] for row in rows}
    return [found[i] for i in ids]
