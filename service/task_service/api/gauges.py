"""Gauges that are read from the database at each scrape of an API process.

While the database is unavailable, the scrape omits them.
"""

import asyncio
from collections import Counter

import structlog
from prometheus_client import Gauge
from sqlalchemy.ext.asyncio import AsyncEngine

from task_service.queue.figures import COUNTS, queue_figures
from task_service.queue.workers import list_workers
from task_service.store.database import is_unavailable, raw

SCRAPE_SECONDS = 5.0
QUEUE_TASKS = Gauge("task_service_queue_tasks", "Tasks in the queue.", ["queue", "state"])
QUEUE_OLDEST = Gauge(
    "task_service_queue_oldest_age_seconds", "Age of the oldest task that could run.", ["queue"]
)
WORKERS = Gauge("task_service_workers", "Worker processes; dead ones of the last hour.", ["state"])

log = structlog.get_logger(__name__)


async def refresh(engine: AsyncEngine) -> None:
    """Set the gauges from the database, or clear them if it does not answer in time."""
    for gauge in (QUEUE_TASKS, QUEUE_OLDEST, WORKERS):
        gauge.clear()
    try:
        async with asyncio.timeout(SCRAPE_SECONDS), engine.connect() as connection:
            figures = await queue_figures(await raw(connection))
            workers = await list_workers(await raw(connection))
    except Exception as error:
        if not is_unavailable(error):
            raise
        log.warning("figures_unavailable", error=repr(error))
        return
    for queue in figures["queues"]:
        for state in COUNTS:
            QUEUE_TASKS.labels(queue["name"], state).set(queue[state])
        QUEUE_OLDEST.labels(queue["name"]).set(queue["oldest_age_seconds"])
    states = Counter(worker["state"] for worker in workers)
    for state in ("active", "draining", "dead"):
        WORKERS.labels(state).set(states[state])
