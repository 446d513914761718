"""Users and their log-ins."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg
from sqlalchemy import func, insert, select, text, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from task_service.domain.permissions import Role
from task_service.settings import Settings
from task_service.store.cursors import decode_cursor, encode_cursor
from task_service.store.database import create_pool
from task_service.store.tables import refresh_tokens, users

LOOKUP_CONNECTIONS = 4
DEAD = (
    ConnectionError, asyncpg.ConnectionDoesNotExistError, asyncpg.AdminShutdownError, asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)  # fmt: skip
"""How a connection that the server has closed fails; the last while the news of it is being read.
"""
ADMIN_LOCK = 7_240_118
"""Key of the advisory lock under which the first administrator is made."""
LOOK_UP = """
SELECT username, role, token_version,
       EXISTS (SELECT FROM refresh_tokens AS t WHERE t.id = $2 AND t.revoked_at IS NOT NULL) AS logged_out
FROM users WHERE id = $1 AND disabled_at IS NULL
"""


@dataclass(frozen=True, slots=True)
class UserRow:
    """A user; `token_version` rises when the tokens that they have must be good no more."""

    id: UUID
    username: str
    password_hash: str
    role: Role
    token_version: int
    disabled_at: datetime | None
    created_by: str | None
    created_at: datetime
    updated_at: datetime
    last_login_at: datetime | None


@dataclass(frozen=True, slots=True)
class Known:
    """What a request needs to know of the user whose token it brings."""

    username: str
    role: Role
    token_version: int
    logged_out: bool


COLUMNS = [users.c[name] for name in UserRow.__dataclass_fields__]


def _row(row: Any) -> UserRow:
    return UserRow(**{**row._mapping, "role": Role(row.role)})


class LookUps:
    """Reads the users of tokens, one prepared statement a request, on connections of its own.

    SQLAlchemy's would cost each request a ping and a transaction beside it. Nothing is cached: who
    was disabled a millisecond ago is out.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._pool: asyncpg.Pool | None = None
        self._opening = asyncio.Lock()

    async def find(self, user_id: UUID, login_id: UUID) -> Known | None:
        """The user, unless they are gone or disabled. Connections that have died are replaced, if
        need be all.
        """
        for _ in range(LOOKUP_CONNECTIONS):
            try:
                return await self._ask(user_id, login_id)
            except DEAD:
                continue
        return await self._ask(user_id, login_id)

    async def _ask(self, user_id: UUID, login_id: UUID) -> Known | None:
        pool = self._pool or await self._open()
        async with pool.acquire() as connection:
            try:
                row = await connection.fetchrow(
                    LOOK_UP, user_id, login_id, timeout=self._settings.db_statement_timeout_seconds
                )
            except DEAD:
                # else the pool may hand it out again before it hears of the end
                connection.terminate()
                raise
        return Known(row[0], Role(row[1]), row[2], row[3]) if row else None

    async def close(self) -> None:
        """Close the connections; a later look-up opens them again."""
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.close()

    async def _open(self) -> asyncpg.Pool:
        async with self._opening:
            if self._pool is None:
                self._pool = await create_pool(self._settings, LOOKUP_CONNECTIONS)
            return self._pool


async def insert_user(connection: AsyncConnection, values: Mapping[str, Any]) -> UserRow | None:
    """Write a new user; None when there is one of that name already, whatever its case."""
    statement = upsert(users).values(**values).on_conflict_do_nothing().returning(*COLUMNS)
    row = (await connection.execute(statement)).first()
    return _row(row) if row else None


async def read_user(
    connection: AsyncConnection, user_id: UUID, *, lock: bool = False
) -> UserRow | None:
    """One user, locked against other changes if asked for."""
    statement = select(*COLUMNS).where(users.c.id == user_id)
    row = (await connection.execute(statement.with_for_update() if lock else statement)).first()
    return _row(row) if row else None


async def find_user(connection: AsyncConnection, username: str) -> UserRow | None:
    """The user of this name, whatever its case."""
    statement = select(*COLUMNS).where(func.lower(users.c.username) == func.lower(username))
    row = (await connection.execute(statement)).first()
    return _row(row) if row else None


async def list_users(
    connection: AsyncConnection, limit: int, cursor: str | None = None
) -> tuple[list[UserRow], str | None]:
    """One page of users, in the order in which they were registered, and the next page's cursor."""
    statement = select(*COLUMNS).order_by(users.c.id).limit(limit + 1)
    if cursor is not None:
        statement = statement.where(users.c.id > decode_cursor(cursor, UUID)[0])
    rows = [_row(row) for row in await connection.execute(statement)]
    return rows[:limit], encode_cursor(rows[limit - 1].id) if len(rows) > limit else None


async def update_user(
    connection: AsyncConnection, user_id: UUID, values: Mapping[str, Any]
) -> UserRow:
    """Change a user who exists, and let none of their tokens be good any more."""
    fresh = {"token_version": users.c.token_version + 1, "updated_at": func.clock_timestamp()}
    statement = (
        update(users).where(users.c.id == user_id).values({**values, **fresh}).returning(*COLUMNS)
    )
    row = (await connection.execute(statement)).one()
    await connection.execute(refresh_tokens.delete().where(refresh_tokens.c.user_id == user_id))
    return _row(row)


async def note_login(connection: AsyncConnection, user: UserRow, new_hash: str | None) -> None:
    """Write when the user logged in, and the same password's hash by the present parameters."""
    values: dict[str, Any] = {"last_login_at": func.clock_timestamp()}
    statement = update(users).where(users.c.id == user.id)
    if new_hash is not None:
        statement = statement.where(users.c.password_hash == user.password_hash)
        values["password_hash"] = new_hash
    await connection.execute(statement.values(values))


async def lock_admins(connection: AsyncConnection) -> list[UUID]:
    """The administrators who are not disabled, locked in the order of their ids."""
    active = (users.c.role == Role.ADMIN) & users.c.disabled_at.is_(None)
    return list(
        await connection.scalars(
            select(users.c.id).where(active).order_by(users.c.id).with_for_update()
        )
    )


async def lock_first_admin(connection: AsyncConnection) -> bool:
    """Wait for others who make the first administrator; whether there is still none."""
    await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": ADMIN_LOCK})
    return not await lock_admins(connection)


async def insert_login(connection: AsyncConnection, login: Mapping[str, Any]) -> None:
    """Write a log-in: `id`, `user_id`, `current`, `expires_at`. The user's expired ones go."""
    c = refresh_tokens.c
    expired = (c.user_id == login["user_id"]) & (c.expires_at < func.clock_timestamp())
    await connection.execute(refresh_tokens.delete().where(expired))
    await connection.execute(insert(refresh_tokens).values(**login))


async def use_refresh_token(
    connection: AsyncConnection, login_id: UUID, used: UUID, fresh: UUID, expires_at: datetime
) -> UUID | None:
    """Put a fresh refresh token in the place of the used one; the user's id, None when that was not
    the good one.
    """
    c = refresh_tokens.c
    statement = (
        update(refresh_tokens)
        .where(
            c.id == login_id,
            c.current == used,
            c.revoked_at.is_(None),
            c.expires_at > func.clock_timestamp(),
        )
        .values(current=fresh, expires_at=expires_at, used_at=func.clock_timestamp())
        .returning(c.user_id)
    )
    row = (await connection.execute(statement)).first()
    return row[0] if row else None


async def end_login(connection: AsyncConnection, login_id: UUID) -> bool:
    """Let no token of a log-in be good any more; False when it had ended before."""
    c = refresh_tokens.c
    statement = update(refresh_tokens).where(c.id == login_id, c.revoked_at.is_(None))
    return (
        await connection.execute(statement.values(revoked_at=func.clock_timestamp()))
    ).rowcount > 0
