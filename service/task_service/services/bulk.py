"""Insert many tasks in few statements, for batches, CSV files and schedules, inside the caller's
transaction.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import islice
from typing import NamedTuple, TypeAlias, TypeVar
from uuid import UUID

import structlog

from task_service.domain.errors import InvalidFieldError
from task_service.domain.fields import check_due
from task_service.domain.ids import new_id
from task_service.domain.principals import Principal
from task_service.domain.statuses import OPEN
from task_service.queue import dependencies, entries
from task_service.schemas.tasks import NewTask
from task_service.services.task_rows import entry_of, json_text, needs_of, new_row, shown_status
from task_service.services.transactions import Transaction
from task_service.store.inserts import FirstLine, NewConversationRow, copy_rows
from task_service.store.unique import KeyClaim, claim_keys
from task_service.telemetry.helpers import current_trace_context
from task_service.telemetry.metrics import count_created

CHUNK = 1_000
"""Tasks prepared at a time; between two chunks the event loop serves other requests."""
MetricLabels: TypeAlias = tuple[str, str | None]
"""Queue and handler of a task."""
T = TypeVar("T")
log = structlog.get_logger(__name__)


class IdentifiedTask(NamedTuple):
    """A task to insert, with its id."""

    id: UUID
    new: NewTask


class BulkResult(NamedTuple):
    """Result for a list of new tasks.

    `ids` are in the order of the list, `inserted` are the tasks that were new, and `existing` the
    positions of those whose unique key another task holds.
    """

    ids: list[UUID]
    inserted: list[IdentifiedTask]
    existing: list[int]


async def create_tasks(
    transaction: Transaction, new: Sequence[NewTask], caller: Principal
) -> BulkResult:
    """Insert 1 to 10,000 tasks with history, conversations and queue entries; skip those whose
    unique key is held.

    Does not check due dates: see `due_date_problem`. Raises InvalidFieldError for dependencies that
    do not exist.
    """
    result = await claim_ids(transaction, new)
    for chunk in chunks(result.inserted):
        await insert_tasks(transaction, chunk, caller)
    await _block_dependents(transaction, new, result.inserted)
    count_tasks(Counter(metric_labels(task.new) for task in result.inserted))
    log.info(
        "tasks_created",
        number=len(result.inserted),
        present=len(result.existing),
        by=caller.name,
    )
    return result


async def _block_dependents(
    transaction: Transaction, new: Sequence[NewTask], inserted: Sequence[IdentifiedTask]
) -> None:
    """Block all tasks with dependencies in one statement, which locks the needed tasks in a single
    order.
    """
    needs = [need for task in inserted for need in needs_of(task.id, task.new)]
    if missing := await dependencies.add_needs(transaction.driver, needs):
        position, needed = next(
            (n, i) for n, task in enumerate(new) for i in task.needs if i in missing
        )
        raise InvalidFieldError(f"tasks.{position}.needs", f"there is no task {needed}")


async def claim_ids(transaction: Transaction, new: Sequence[NewTask]) -> BulkResult:
    """Claim the unique keys of new tasks, with the same result as creating the tasks one after
    another.
    """
    own_ids = [new_id() for _ in new]
    ids, claims, open_keys = list(own_ids), dict[str, KeyClaim](), set[str]()
    for position, task in enumerate(new):
        key = task.unique_key
        if key is None:
            continue
        if key in open_keys:
            ids[position] = claims[key].task_id
            continue
        claims[key] = KeyClaim(key, own_ids[position], task.unique_seconds)
        if task.status in OPEN or task.unique_seconds:
            open_keys.add(key)
    held = await claim_keys(transaction.driver, claims.values())
    ids = [held.get(task.unique_key or "", i) for task, i in zip(new, ids, strict=True)]
    triples = list(zip(ids, own_ids, new, strict=True))
    inserted = [IdentifiedTask(i, task) for i, own, task in triples if i == own]
    return BulkResult(ids, inserted, [n for n, (i, own, _) in enumerate(triples) if i != own])


def metric_labels(new: NewTask) -> MetricLabels:
    """Return the labels under which a new task is counted."""
    return new.queue, new.handler


def count_tasks(numbers: Mapping[MetricLabels, int]) -> None:
    """Count created tasks in the metrics."""
    for (queue, handler), number in numbers.items():
        count_created(queue, handler, number)


def due_date_problem(new: NewTask, now: datetime) -> str | None:
    """Return the error message for the task's due date; None when it is valid."""
    if new.due_date is None:
        return None
    try:
        check_due(new.due_date, now)
    except ValueError as error:
        return str(error)
    return None


def chunks(items: Iterable[T]) -> Iterator[list[T]]:
    """Split items into lists of at most `CHUNK`."""
    rest = iter(items)
    while chunk := list(islice(rest, CHUNK)):
        yield chunk


async def insert_tasks(
    transaction: Transaction, tasks: Sequence[IdentifiedTask], caller: Principal
) -> None:
    """Insert one chunk for `create_tasks`, without metrics and log events."""
    now, trace = transaction.clock(), current_trace_context()
    attempts, driver = transaction.settings.default_max_attempts, transaction.driver
    rows = [new_row(task.id, task.new, now, attempts, caller) for task in tasks]
    await copy_rows(driver, rows)
    history = [FirstLine(t.id, shown_status(t.new, now), caller.name) for t in tasks]
    await copy_rows(driver, history)
    conversations = [
        NewConversationRow(new_id(), task.id, json_text(c.body))
        for task in tasks
        for c in task.new.conversations
    ]
    await copy_rows(driver, conversations)
    waiting = [entry for row in rows if (entry := entry_of(row, trace)) is not None]
    await entries.enqueue(driver, waiting, transaction.wakeups)
