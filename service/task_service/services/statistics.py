"""Statistics of all tasks."""

from dataclasses import dataclass

from task_service.domain.priorities import BY_RANK, Priority
from task_service.domain.statuses import Status
from task_service.queue.figures import queue_figures
from task_service.services.transactions import TransactionManager
from task_service.store.database import raw
from task_service.store.statistics import Numbers, read_numbers


@dataclass(frozen=True, slots=True)
class Summary:
    """Number of tasks, without deleted ones: in total, by status and by priority."""

    total: int
    by_status: dict[Status, int]
    by_priority: dict[Priority, int]


async def summarize(transactions: TransactionManager) -> Summary:
    """Count tasks in one snapshot. The cost does not depend on the number of tasks (see
    `figures.sql`).
    """
    async with transactions.snapshot() as connection:
        numbers = await read_numbers(connection)
        queue = await queue_figures(await raw(connection))
    by_priority = {priority: numbers.by_rank.get(rank, 0) for rank, priority in enumerate(BY_RANK)}
    return Summary(sum(by_priority.values()), by_status(numbers, queue), by_priority)


def by_status(numbers: Numbers, queue: dict[str, int]) -> dict[Status, int]:
    """Count statuses from their sources: the queue, final runs, and statuses that users set.

    >>> numbers = Numbers({2: 10}, {"pending": 3}, 1, {"failed": 2}, {"processing": 1})
    >>> queue = {"ready": 4, "blocked": 0, "scheduled": 1, "running": 1}
    >>> {str(s): n for s, n in by_status(numbers, queue).items() if n}
    {'pending': 6, 'scheduled': 2, 'failed': 2}
    """
    shown = {
        Status.PENDING: queue["ready"] + queue["blocked"] - numbers.own_scheduled,
        Status.SCHEDULED: queue["scheduled"] + numbers.own_scheduled,
        Status.PROCESSING: queue["running"],
    }
    return {
        s: max(
            0,
            shown.get(s, 0)
            + numbers.own.get(s, 0)
            + numbers.ended.get(s, 0)
            - numbers.hidden.get(s, 0),
        )
        for s in Status
    }
