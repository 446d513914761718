"""Register and change users, log them in and out. Passwords are hashed before a transaction is open."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from task_service.domain.errors import (
    ConflictError,
    InvalidFieldError,
    InvalidTokenError,
    NotFoundError,
    UnauthorizedError,
)
from task_service.domain.ids import new_id
from task_service.domain.password_rules import check_password
from task_service.domain.permissions import Role
from task_service.domain.principals import Principal
from task_service.schemas.users import NewUser, PasswordChange, UserChange
from task_service.services.context import Context
from task_service.services.identity.passwords import Passwords
from task_service.services.identity.tokens import Bearer, Tokens
from task_service.store import users as store
from task_service.store.users import UserRow

log = structlog.get_logger(__name__)

WRONG = "The user name or the password is wrong."
OVER = "The refresh token is not good any more; log in again."


@dataclass(frozen=True, slots=True)
class Credentials:
    """What signs tokens, and what hashes passwords."""

    tokens: Tokens
    passwords: Passwords


@dataclass(frozen=True, slots=True)
class Granted:
    """The tokens of a log-in or refresh."""

    access_token: str
    refresh_token: str
    expires_in_seconds: int


async def log_in(
    context: Context, credentials: Credentials, username: str, password: str
) -> Granted:
    """Tokens for who knows the password. UnauthorizedError otherwise; it and its time do not tell what was wrong."""
    async with context.reading() as connection:
        user = await store.find_user(connection, username.replace("\x00", ""))
    verdict = await credentials.passwords.verify(user.password_hash if user else None, password)
    if user is None or not verdict.good or user.disabled_at is not None:
        log.warning("login_failed", user_id=str(user.id) if user else None)
        raise UnauthorizedError(WRONG)

    async def write(connection: AsyncConnection) -> Granted:
        present = await store.read_user(connection, user.id, lock=True)
        if (
            present is None or present.token_version != user.token_version
        ):  # changed while we hashed
            raise UnauthorizedError(WRONG)
        await store.note_login(connection, user, verdict.new_hash)
        return await _grant(context, connection, credentials.tokens, user)

    granted = await context.write(write)
    log.info("logged_in", user_id=str(user.id), rehashed=verdict.new_hash is not None)
    return granted


async def refresh(context: Context, credentials: Credentials, token: str) -> Granted:
    """The next tokens. One that was used before ends the log-in that it belongs to. Raises InvalidTokenError."""
    tokens = credentials.tokens
    claims = tokens.read(token, "refresh")
    fresh, expires_at = new_id(), context.clock() + tokens.refresh_life

    async def write(connection: AsyncConnection) -> UserRow | None:
        user_id = await store.use_refresh_token(
            connection, claims.login_id, claims.token_id, fresh, expires_at
        )
        if user_id is not None:
            return await store.read_user(connection, user_id)
        if await store.end_login(connection, claims.login_id):
            log.warning(
                "refresh_token_reused", user_id=str(claims.user_id), login_id=str(claims.login_id)
            )
        return None

    user = await context.write(write)
    if user is None or user.disabled_at is not None:
        raise InvalidTokenError(OVER)
    bearer = Bearer(user.id, user.role, user.token_version, claims.login_id)
    return _granted(tokens, bearer, tokens.refresh(bearer, fresh, expires_at))


async def log_out(context: Context, login_id: UUID) -> None:
    """Let no token of this log-in be good any more."""
    if await context.write(lambda connection: store.end_login(connection, login_id)):
        log.info("logged_out", login_id=str(login_id))


async def change_own_password(
    context: Context, credentials: Credentials, caller: Principal, wanted: PasswordChange
) -> Granted:
    """Set one's own password; every log-in ends, and the answer is a new one. Raises UnauthorizedError."""
    if caller.user_id is None:
        raise ConflictError(f"{caller.name} has no password here.")
    user = await read_user(context, caller.user_id)
    verdict = await credentials.passwords.verify(
        user.password_hash, wanted.current_password.get_secret_value()
    )
    if not verdict.good:
        raise UnauthorizedError("current_password is wrong.")
    password_hash = await _hash(
        credentials, "new_password", wanted.new_password.get_secret_value(), user.username
    )

    async def write(connection: AsyncConnection) -> Granted:
        present = await store.read_user(connection, user.id, lock=True)
        if present is None or present.token_version != user.token_version:
            raise UnauthorizedError(WRONG)
        changed = await store.update_user(connection, user.id, {"password_hash": password_hash})
        return await _grant(context, connection, credentials.tokens, changed)

    granted = await context.write(write)
    log.info("password_changed", user_id=str(user.id), by=caller.name)
    return granted


async def register(
    context: Context, credentials: Credentials, new: NewUser, caller: Principal
) -> UserRow:
    """Make a user. Raises ConflictError for a name that is taken, InvalidFieldError for a weak password."""
    password_hash = await _hash(
        credentials, "password", new.password.get_secret_value(), new.username
    )
    values = _new_user(new.username, password_hash, new.role, caller.name)
    user = await context.write(lambda connection: store.insert_user(connection, values))
    if user is None:
        raise ConflictError(f"There is a user {new.username} already.")
    log.info("user_registered", user_id=str(user.id), role=user.role, by=caller.name)
    return user


async def read_user(context: Context, user_id: UUID) -> UserRow:
    """One user; NotFoundError."""
    async with context.reading() as connection:
        user = await store.read_user(connection, user_id)
    if user is None:
        raise NotFoundError("user", user_id)
    return user


async def change_user(
    context: Context, credentials: Credentials, user_id: UUID, wanted: UserChange, caller: Principal
) -> UserRow:
    """Change role, disabling or password. Raises NotFoundError; ConflictError for the last administrator."""
    password_hash = None
    if "password" in wanted.model_fields_set:
        user = await read_user(context, user_id)
        password_hash = await _hash(
            credentials, "password", wanted.password.get_secret_value(), user.username
        )
    return await context.write(
        lambda c: _change(context, c, user_id, (wanted, password_hash), caller)
    )


async def ensure_admin(
    context: Context, credentials: Credentials, username: str, password: str
) -> bool:
    """Make the first administrator while there is none; False when there is one. Any number of processes make one."""
    async with context.reading() as connection:
        if await store.lock_admins(connection):
            return False
    password_hash = await _hash(credentials, "ADMIN_PASSWORD", password, username)

    async def write(connection: AsyncConnection) -> UserRow | None:
        if not await store.lock_first_admin(connection):
            return None
        values = _new_user(username, password_hash, Role.ADMIN, "system")
        made = await store.insert_user(connection, values)
        if made is None:
            log.error(
                "first_admin_name_taken",
                meaning="a user of that name is no administrator: choose another name",
            )
        return made

    made = await context.write(write)
    if made is not None:
        log.info("first_admin_made", user_id=str(made.id), username=made.username)
    return made is not None


async def _change(
    context: Context,
    connection: AsyncConnection,
    user_id: UUID,
    change: tuple[UserChange, str | None],
    caller: Principal,
) -> UserRow:
    wanted, password_hash = change
    admins = await store.lock_admins(connection)  # before the user's own row: the order of everyone
    user = await store.read_user(connection, user_id, lock=True)
    if user is None:
        raise NotFoundError("user", user_id)
    values: dict[str, Any] = {} if password_hash is None else {"password_hash": password_hash}
    given = wanted.model_fields_set
    if "role" in given and wanted.role is not user.role:
        values["role"] = wanted.role
    if "disabled" in given and wanted.disabled != (user.disabled_at is not None):
        values["disabled_at"] = context.clock() if wanted.disabled else None
    if not values:
        return user
    leaves = values.get("disabled_at") is not None or "role" in values
    if leaves and admins == [user_id]:
        raise ConflictError("This is the last administrator; make another one first.")
    log.info("user_changed", user_id=str(user_id), fields=sorted(values), by=caller.name)
    return await store.update_user(connection, user_id, values)


async def _hash(credentials: Credentials, field: str, password: str, username: str) -> str:
    try:
        checked = check_password(password, username)
    except ValueError as error:
        raise InvalidFieldError(field, str(error)) from None
    return await credentials.passwords.hash(checked)


def _new_user(username: str, password_hash: str, role: Role, by: str) -> dict[str, Any]:
    return {
        "id": new_id(), "username": username, "password_hash": password_hash, "role": role, "created_by": by
    }  # fmt: skip


async def _grant(
    context: Context, connection: AsyncConnection, tokens: Tokens, user: UserRow
) -> Granted:
    """Begin a log-in."""
    bearer = Bearer(user.id, user.role, user.token_version, new_id())
    token_id, expires_at = new_id(), context.clock() + tokens.refresh_life
    login = {
        "id": bearer.login_id,
        "user_id": user.id,
        "current": token_id,
        "expires_at": expires_at,
    }
    await store.insert_login(connection, login)
    return _granted(tokens, bearer, tokens.refresh(bearer, token_id, expires_at))


def _granted(tokens: Tokens, bearer: Bearer, refresh_token: str) -> Granted:
    return Granted(tokens.access(bearer), refresh_token, int(tokens.access_life.total_seconds()))
