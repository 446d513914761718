"""Unique keys: which task one stands for, and how keys that hold nothing any more are forgotten."""

from collections.abc import Collection
from typing import NamedTuple
from uuid import UUID

from task_service.store.database import Driver, Executes

CLAIM = "SELECT held_key, holder FROM claim_unique_keys($1::text[], $2::uuid[], $3::integer[])"
PRUNE_BATCH = 1000
# A key that somebody takes over meanwhile is spared: `created_at` is looked at again under the
# lock.
PRUNE = """
    DELETE FROM unique_keys WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM unique_keys AS k
        WHERE created_at < now() - make_interval(secs => $1)
            AND NOT EXISTS (SELECT FROM unique_held AS h WHERE h.key = k.key)
        ORDER BY created_at LIMIT $2 FOR UPDATE SKIP LOCKED
    ))
"""


class KeyClaim(NamedTuple):
    """A key for a task that is about to be made; `seconds` is its period, None: while it is open."""

    key: str
    task_id: UUID
    seconds: int | None


async def claim_keys(connection: Driver, claims: Collection[KeyClaim]) -> dict[str, UUID]:
    """Claim keys (none twice) in the caller's transaction; those that other tasks hold, and which.

    Waits for other transactions that claim the same ones.
    """
    if not claims:
        return {}
    keys, task_ids, seconds = zip(*claims, strict=True)
    return {row[0]: row[1] for row in await connection.fetch(CLAIM, keys, task_ids, seconds)}


async def prune_unique_keys(connection: Executes, older_seconds: float) -> int:
    """Forget keys that were claimed so long ago and are held no more, in batches of one transaction
    each; how many.
    """
    pruned = 0
    while True:
        batch = int((await connection.execute(PRUNE, older_seconds, PRUNE_BATCH)).split()[-1])
        pruned += batch
        if batch < PRUNE_BATCH:
            return pruned
