"""Numbers that are kept, not counted: triggers write how they change, and folding adds the changes up.

The truth is always the sum of both (`figures.sql`, `store.counts`); folding keeps it short to add up.
"""

from task_service.queue.statements import Connection, statement

FOLD_ROWS = 10_000


async def fold(connection: Connection) -> int:
    """Fold what has changed, a transaction per `FOLD_ROWS`; return how many. Harmless when many do it at once."""
    folded = 0
    while batch := await connection.fetchval(statement("fold"), FOLD_ROWS):
        folded += batch
        if batch < FOLD_ROWS:
            break
    return folded
