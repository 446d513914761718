"""Register and change users, log them in and out. Passwords are hashed outside of transactions."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

import structlog

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
from task_service.services.identity.passwords import Passwords
from task_service.services.identity.tokens import Bearer, Tokens
from task_service.services.transactions import Transaction, TransactionManager
from task_service.store import users as store
from task_service.store.users import UserRow

log = structlog.get_logger(__name__)

WRONG_LOGIN = "The user name or the password is wrong."
EXPIRED_LOGIN = "The refresh token is no longer valid; log in again."


@dataclass(frozen=True, slots=True)
class Credentials:
    """Token signer and password hasher of a process."""

    tokens: Tokens
    passwords: Passwords


@dataclass(frozen=True, slots=True)
class Granted:
    """Tokens for a login or a refresh."""

    access_token: str
    refresh_token: str
    expires_in_seconds: int


async def log_in(
    transactions: TransactionManager, credentials: Credentials, username: str, password: str
) -> Granted:
    """Log a user in. Raises UnauthorizedError, whose text and timing do not reveal what was wrong."""
    async with transactions.read() as connection:
        user = await store.find_user(connection, username.replace("\x00", ""))
    verdict = await credentials.passwords.verify(user.password_hash if user else None, password)
    if user is None or not verdict.good or user.disabled_at is not None:
        log.warning("login_failed", user_id=str(user.id) if user else None)
        raise UnauthorizedError(WRONG_LOGIN)

    async def write(transaction: Transaction) -> Granted:
        await _require_same(transaction, user)
        await store.note_login(transaction.sql, user, verdict.new_hash)
        return await _grant(transaction, credentials.tokens, user)

    granted = await transactions.write(write)
    log.info("logged_in", user_id=str(user.id), rehashed=verdict.new_hash is not None)
    return granted


async def refresh(
    transactions: TransactionManager, credentials: Credentials, token: str
) -> Granted:
    """Exchange a refresh token for new tokens. Raises InvalidTokenError.

    A token that was used before ends its login, because somebody else may have a copy.
    """
    tokens = credentials.tokens
    claims = tokens.read(token, "refresh")
    fresh, expires_at = new_id(), transactions.clock() + tokens.refresh_life

    async def write(transaction: Transaction) -> UserRow | None:
        user_id = await store.use_refresh_token(
            transaction.sql, claims.login_id, claims.token_id, fresh, expires_at
        )
        if user_id is not None:
            return await store.read_user(transaction.sql, user_id)
        if await store.end_login(transaction.sql, claims.login_id):
            log.warning(
                "refresh_token_reused", user_id=str(claims.user_id), login_id=str(claims.login_id)
            )
        return None

    user = await transactions.write(write)
    if user is None or user.disabled_at is not None:
        raise InvalidTokenError(EXPIRED_LOGIN)
    bearer = Bearer(user.id, user.role, user.token_version, claims.login_id)
    return _granted(tokens, bearer, tokens.refresh(bearer, fresh, expires_at))


async def log_out(transactions: TransactionManager, login_id: UUID) -> None:
    """Invalidate all tokens of a login."""
    if await transactions.write(lambda t: store.end_login(t.sql, login_id)):
        log.info("logged_out", login_id=str(login_id))


async def change_own_password(
    transactions: TransactionManager,
    credentials: Credentials,
    wanted: PasswordChange,
    caller: Principal,
) -> Granted:
    """Change the caller's password, end all their logins and start a new one. Raises
    UnauthorizedError.
    """
    if caller.user_id is None:
        raise ConflictError(f"{caller.name} has no password in this service.")
    user = await read_user(transactions, caller.user_id)
    verdict = await credentials.passwords.verify(
        user.password_hash, wanted.current_password.get_secret_value()
    )
    if not verdict.good:
        raise UnauthorizedError("current_password is wrong.")
    new_password = wanted.new_password.get_secret_value()
    password_hash = await _hash(credentials, "new_password", new_password, user.username)

    async def write(transaction: Transaction) -> Granted:
        await _require_same(transaction, user)
        values = {"password_hash": password_hash}
        changed = await store.update_user(transaction.sql, user.id, values)
        return await _grant(transaction, credentials.tokens, changed)

    granted = await transactions.write(write)
    log.info("password_changed", user_id=str(user.id), by=caller.name)
    return granted


async def register(
    transactions: TransactionManager, credentials: Credentials, new: NewUser, caller: Principal
) -> UserRow:
    """Create a user. Raises ConflictError for a name in use, InvalidFieldError for a weak password."""
    password_hash = await _hash(
        credentials, "password", new.password.get_secret_value(), new.username
    )
    values = _new_user(new.username, password_hash, new.role, caller.name)
    user = await transactions.write(lambda t: store.insert_user(t.sql, values))
    if user is None:
        raise ConflictError(f"The user name {new.username} is already in use.")
    log.info("user_registered", user_id=str(user.id), role=user.role, by=caller.name)
    return user


async def read_user(transactions: TransactionManager, user_id: UUID) -> UserRow:
    """Read one user. Raises NotFoundError."""
    async with transactions.read() as connection:
        user = await store.read_user(connection, user_id)
    if user is None:
        raise NotFoundError("user", user_id)
    return user


async def change_user(
    transactions: TransactionManager,
    credentials: Credentials,
    user_id: UUID,
    wanted: UserChange,
    caller: Principal,
) -> UserRow:
    """Change role, password, or whether the user is disabled.

    Raises NotFoundError, InvalidFieldError for a weak password, ConflictError for the last
    administrator.
    """
    password_hash = None
    if "password" in wanted.model_fields_set:
        user = await read_user(transactions, user_id)
        password = wanted.password.get_secret_value()
        password_hash = await _hash(credentials, "password", password, user.username)
    return await transactions.write(lambda t: _change(t, user_id, (wanted, password_hash), caller))


async def ensure_admin(
    transactions: TransactionManager, credentials: Credentials, username: str, password: str
) -> bool:
    """Create the first administrator; return whether this call created it.

    Does nothing when there is an administrator. Any number of processes together create one.
    """
    async with transactions.read() as connection:
        if await store.lock_admins(connection):
            return False
    password_hash = await _hash(credentials, "ADMIN_PASSWORD", password, username)

    async def write(transaction: Transaction) -> UserRow | None:
        if not await store.lock_first_admin(transaction.sql):
            return None
        values = _new_user(username, password_hash, Role.ADMIN, "system")
        admin = await store.insert_user(transaction.sql, values)
        if admin is None:
            log.error(
                "first_admin_name_taken",
                meaning="a user of that name is not an administrator: choose another name",
            )
        return admin

    admin = await transactions.write(write)
    if admin is not None:
        log.info("first_admin_made", user_id=str(admin.id), username=admin.username)
    return admin is not None


async def _change(
    transaction: Transaction,
    user_id: UUID,
    change: tuple[UserChange, str | None],
    caller: Principal,
) -> UserRow:
    """Apply a change; its second part is the hash of the new password."""
    wanted, password_hash = change
    # All writers lock the administrators before a user's own row.
    admins = await store.lock_admins(transaction.sql)
    user = await store.read_user(transaction.sql, user_id, lock=True)
    if user is None:
        raise NotFoundError("user", user_id)
    values: dict[str, Any] = {} if password_hash is None else {"password_hash": password_hash}
    given = wanted.model_fields_set
    if "role" in given and wanted.role is not user.role:
        values["role"] = wanted.role
    if "disabled" in given and wanted.disabled != (user.disabled_at is not None):
        values["disabled_at"] = transaction.clock() if wanted.disabled else None
    if not values:
        return user
    leaves = values.get("disabled_at") is not None or "role" in values
    if leaves and admins == [user_id]:
        raise ConflictError("This is the last administrator; add another one first.")
    log.info("user_changed", user_id=str(user_id), fields=sorted(values), by=caller.name)
    return await store.update_user(transaction.sql, user_id, values)


async def _require_same(transaction: Transaction, user: UserRow) -> None:
    """Lock the user. Raises UnauthorizedError when they were changed while the password was hashed."""
    current = await store.read_user(transaction.sql, user.id, lock=True)
    if current is None or current.token_version != user.token_version:
        raise UnauthorizedError(WRONG_LOGIN)


async def _hash(credentials: Credentials, field: str, password: str, username: str) -> str:
    """Hash a new password. Raises InvalidFieldError for one that is not allowed."""
    try:
        checked = check_password(password, username)
    except ValueError as error:
        raise InvalidFieldError(field, str(error)) from None
    return await credentials.passwords.hash(checked)


def _new_user(username: str, password_hash: str, role: Role, by: str) -> dict[str, Any]:
    return {
        "id": new_id(),
        "username": username,
        "password_hash": password_hash,
        "role": role,
        "created_by": by,
    }


async def _grant(transaction: Transaction, tokens: Tokens, user: UserRow) -> Granted:
    """Start a login."""
    bearer = Bearer(user.id, user.role, user.token_version, new_id())
    token_id, expires_at = new_id(), transaction.clock() + tokens.refresh_life
    login = {
        "id": bearer.login_id,
        "user_id": user.id,
        "current": token_id,
        "expires_at": expires_at,
    }
    await store.insert_login(transaction.sql, login)
    return _granted(tokens, bearer, tokens.refresh(bearer, token_id, expires_at))


def _granted(tokens: Tokens, bearer: Bearer, refresh_token: str) -> Granted:
    return Granted(tokens.access(bearer), refresh_token, int(tokens.access_life.total_seconds()))
