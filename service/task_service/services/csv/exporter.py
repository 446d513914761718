"""CSV export of tasks: a stream of pages that holds no transaction or connection between them."""

import csv
import io
from collections.abc import AsyncIterator

from task_service.services.csv.format import COLUMNS, READ_ONLY, write_cells
from task_service.services.transactions import TransactionManager
from task_service.store.task_lists.filters import TaskFilter
from task_service.store.task_lists.listing import list_tasks
from task_service.store.tasks import read_payloads

PAGE = 200
"""Tasks per page. A page is held in memory, and a task may have a payload of 256 KiB."""


async def export_csv(transactions: TransactionManager, where: TaskFilter) -> AsyncIterator[bytes]:
    """Yield the matching tasks, oldest first, as parts of a CSV file (UTF-8, CRLF) with a header.

    The export contains every task that existed at its start, with the content at the time when its
    page is read. Tasks created during the export may be missing.
    """
    header, cursor = True, None
    while header or cursor is not None:
        async with transactions.read() as connection:
            page, cursor = await list_tasks(connection, where, "created_at", PAGE, cursor)
            payloads = await read_payloads(connection, [task.id for task in page])
        rows = [write_cells(task, payloads.get(task.id)) for task in page]
        yield _csv([[*COLUMNS, *READ_ONLY], *rows] if header else rows)
        header = False


def _csv(rows: list[list[str]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()
