"""Materialized task counts. Triggers insert changes of the counts, and folding adds them up.

The current count is always the sum of counts and changes (`figures.sql`, `store.statistics`);
folding keeps the number of changes small.
"""

from task_service.queue.statements import Connection, statement

FOLD_ROWS = 10_000


async def fold(connection: Connection) -> int:
    """Fold all changes, one transaction per `FOLD_ROWS`, and return their number.

    Safe to call from several processes at the same time.
    """
    folded = 0
    while batch := await connection.fetchval(statement("fold_counts"), FOLD_ROWS):
        folded += batch
        if batch < FOLD_ROWS:
            break
    return folded
