"""Queue figures: the number of tasks by state, and the age of the oldest waiting task."""

from datetime import UTC, datetime
from typing import Any

from task_service.queue.statements import Connection, statement

COUNT_LIMIT = 20_000
"""Rows per queue that are counted one by one. `figures.sql` explains when more are counted."""
COUNTS = ("ready", "scheduled", "running", "blocked")


async def queue_figures(connection: Connection) -> dict[str, Any]:
    """Return the counts and the age of the oldest waiting task, in total and per queue."""
    queues = [dict(row) for row in await connection.fetch(statement("figures"), COUNT_LIMIT)]
    total = {name: sum(q[name] for q in queues) for name in COUNTS}
    oldest = max((q["oldest_age_seconds"] for q in queues), default=0.0)
    return {"at": datetime.now(UTC), **total, "oldest_age_seconds": oldest, "queues": queues}
