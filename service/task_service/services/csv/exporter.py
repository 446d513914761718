"""Export tasks as CSV: a stream of pages, none of which keeps a transaction or a connection."""

import csv
import io
from collections.abc import AsyncIterator

from task_service.services.context import Context
from task_service.services.csv.format import COLUMNS, MADE_HERE, write_cells
from task_service.store.task_lists.filters import TaskFilter
from task_service.store.task_lists.listing import list_tasks
from task_service.store.tasks import read_payloads

PAGE = 200
"""Tasks of one page; each may have a payload of 256 KiB, and a page is held in memory."""


async def export_csv(context: Context, where: TaskFilter) -> AsyncIterator[bytes]:
    """The tasks that match, oldest first, as pieces of a CSV file (UTF-8, CRLF), the header with the first page.

    A task that is changed meanwhile is told as it is when its page is read. One that is created meanwhile may be there,
    at the end, or not: what was there when the export began is complete.
    """
    header, cursor = True, None
    while header or cursor is not None:
        async with context.reading() as connection:
            page, cursor = await list_tasks(connection, where, "created_at", PAGE, cursor)
            payloads = await read_payloads(connection, [task.id for task in page])
        rows = [write_cells(task, payloads.get(task.id)) for task in page]
        yield _csv([[*COLUMNS, *MADE_HERE], *rows] if header else rows)
        header = False


def _csv(rows: list[list[str]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()
