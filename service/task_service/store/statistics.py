"""How many tasks there are of each kind, without counting them (see `task_counts` in the
migrations).
"""

from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

NUMBERS = text("""
    SELECT dimension, value, sum(number)::bigint AS number
    FROM (
        SELECT dimension, value, number FROM task_counts WHERE dimension <> 'queue'
        UNION ALL
        SELECT dimension, value, number FROM task_deltas WHERE dimension <> 'queue'
    ) AS parts
    GROUP BY dimension, value
    UNION ALL
    SELECT 'scheduled', '', count(*) FROM tasks
    WHERE status = 'pending' AND run_at IS NOT NULL AND deleted_at IS NULL AND run_at > statement_timestamp()
    UNION ALL
    SELECT
        'hidden',
        CASE
            WHEN state = 'running' THEN 'processing'
            WHEN run_at > statement_timestamp() THEN 'scheduled'
            ELSE 'pending'
        END,
        count(*)
    FROM queue
    WHERE hidden
    GROUP BY 2
""")
"""Every number but the queue's, and two small counts by indexes of their own: pending tasks of
people whose time comes later, and rows of the queue whose task is deleted.
"""


@dataclass(frozen=True, slots=True)
class Numbers:
    """Numbers of tasks: by rank of priority; by a status that a person set (`scheduled` of
    `pending`: their time comes later); by final run; of the queue's rows, those whose task is
    deleted, by the status they stand for.
    """

    by_rank: dict[int, int]
    own: dict[str, int]
    own_scheduled: int
    ended: dict[str, int]
    hidden: dict[str, int]


async def read_numbers(connection: AsyncConnection) -> Numbers:
    """Read the numbers; in one snapshot with the queue's figures when the caller's transaction has
    one.
    """
    found: dict[str, dict[str, int]] = {
        name: {} for name in ("priority", "own", "run", "scheduled", "hidden")
    }
    for dimension, value, number in await connection.execute(NUMBERS):
        found[dimension][value] = number
    by_rank = {int(rank): number for rank, number in found["priority"].items()}
    return Numbers(
        by_rank, found["own"], found["scheduled"].get("", 0), found["run"], found["hidden"]
    )
