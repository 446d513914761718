"""Answers that are given again to whoever sends a request again, by caller, route and key."""

from dataclasses import dataclass

from sqlalchemy import LargeBinary, SmallInteger, Text, bindparam, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from task_service.domain.errors import UnavailableError
from task_service.store.database import Executes
from task_service.store.tables import idempotency_keys

PRUNE_BATCH = 1000
TRIES = 3
COLUMNS = idempotency_keys.c
NAMED = (
    (COLUMNS.caller == bindparam("its_caller", type_=Text))
    & (COLUMNS.route == bindparam("its_route", type_=Text))
    & (COLUMNS.key == bindparam("its_key", type_=Text))
)
EXPIRED = COLUMNS.created_at < func.now() - func.make_interval(0, 0, 0, 0, bindparam("hours"))
CLAIM = insert(idempotency_keys).on_conflict_do_nothing().returning(COLUMNS.key)
READ = select(COLUMNS.digest, COLUMNS.status, COLUMNS.headers, COLUMNS.body).where(NAMED, ~EXPIRED)
REMOVE_EXPIRED = delete(idempotency_keys).where(NAMED, EXPIRED)
REMOVE = delete(idempotency_keys).where(NAMED)
KEEP = (
    update(idempotency_keys)
    .where(NAMED)
    .values(
        status=bindparam("new_status", type_=SmallInteger),
        headers=bindparam("new_headers", type_=COLUMNS.headers.type),
        body=bindparam("new_body", type_=LargeBinary),
    )
)
PRUNE = """
    DELETE FROM idempotency_keys WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM idempotency_keys WHERE created_at < now() - make_interval(hours => $1)
        ORDER BY created_at LIMIT $2 FOR UPDATE SKIP LOCKED
    ))
"""


@dataclass(frozen=True, slots=True)
class KeyName:
    """What a key is bound to."""

    caller: str
    route: str
    key: str

    def columns(self) -> dict[str, str]:
        """Its columns, to insert."""
        return {"caller": self.caller, "route": self.route, "key": self.key}

    def named(self) -> dict[str, str]:
        """The parameters of `NAMED`: SQLAlchemy keeps the columns' own names for what is written."""
        return {f"its_{name}": value for name, value in self.columns().items()}


@dataclass(frozen=True, slots=True)
class Kept:
    """The first successful answer, and the digest of the request that it was given to."""

    digest: str
    status: int
    headers: dict[str, str]
    body: bytes


async def claim(connection: AsyncConnection, name: KeyName, digest: str, hours: int) -> Kept | None:
    """Claim the key for this transaction (None), or give what was kept for it.

    Waits for another transaction that has claimed it. Raises UnavailableError when the key comes
    and goes.
    """
    for _ in range(TRIES):
        claimed = await connection.execute(CLAIM, {**name.columns(), "digest": digest})
        if claimed.first() is not None:
            return None
        kept = (await connection.execute(READ, {**name.named(), "hours": hours})).first()
        if kept is not None:
            return Kept(*kept)
        await connection.execute(REMOVE_EXPIRED, {**name.named(), "hours": hours})
    raise UnavailableError("The same request is still being answered; try again.")


async def keep(connection: AsyncConnection, name: KeyName, kept: Kept) -> None:
    """Keep the answer under the key that this transaction has claimed."""
    answer = {"new_status": kept.status, "new_headers": kept.headers, "new_body": kept.body}
    await connection.execute(KEEP, {**name.named(), **answer})


async def give_up(connection: AsyncConnection, name: KeyName) -> None:
    """Leave no trace of the key that this transaction has claimed."""
    await connection.execute(REMOVE, name.named())


async def prune_keys(connection: Executes, hours: int) -> int:
    """Remove keys older than so many hours, in batches that are transactions of their own; how many
    there were.
    """
    removed = 0
    while True:
        batch = int((await connection.execute(PRUNE, hours, PRUNE_BATCH)).split()[-1])
        removed += batch
        if batch < PRUNE_BATCH:
            return removed
