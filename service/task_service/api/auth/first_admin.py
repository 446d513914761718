"""Checks before the API starts, and the creation of the first administrator."""

import asyncio
from pathlib import Path

import structlog
from sqlalchemy.exc import DBAPIError

from task_service.api.auth.signing_keys import NoKeyError, SigningKeys
from task_service.clocks import growing_pauses
from task_service.domain.errors import DomainError
from task_service.domain.password_rules import check_password
from task_service.schemas.users import check_username
from task_service.services.identity.users import Credentials, ensure_admin
from task_service.services.transactions import TransactionManager
from task_service.settings import Settings

PAUSES_SECONDS = (0.1, 5.0)
"""Pause between two attempts: the first and the maximum."""
log = structlog.get_logger(__name__)


class StartRefusedError(Exception):
    """The API must not start with these settings. The text has one line per reason."""


def refuse_bad_start(settings: Settings) -> None:
    """Check that the API may start with these settings. Raises StartRefusedError."""
    reasons = []
    if settings.environment == "production":
        if settings.debug:
            reasons.append(
                "DEBUG exposes internal errors to callers: it must be off if "
                "ENVIRONMENT=production."
            )
        if settings.auth_mode == "open":
            reasons.append(
                "AUTH_MODE=open gives unauthenticated callers full access: it must be required in "
                "production."
            )
    try:
        SigningKeys(settings)
    except NoKeyError as error:
        reasons.append(str(error))
    try:
        first_admin(settings)
    except (ValueError, OSError) as error:
        reasons.append(str(error))
    if reasons:
        raise StartRefusedError("\n".join(reasons))


def first_admin(settings: Settings) -> tuple[str, str] | None:
    """Return the configured administrator's name and password; None if not configured.

    Raises ValueError for an invalid name or password.
    """
    password, file = settings.admin_password, settings.admin_password_file
    if file is not None and settings.admin_username is None and not file.exists():
        return None  # the mounted Secret has no administrator
    if file is not None:
        password = Path(file).read_text().rstrip("\r\n") or None
    if settings.admin_username is None and password is None:
        return None
    if settings.admin_username is None or password is None:
        raise ValueError("ADMIN_USERNAME and ADMIN_PASSWORD must be set together.")
    try:
        username = check_username(settings.admin_username)
    except ValueError as error:
        raise ValueError(f"ADMIN_USERNAME {error}.") from None
    try:
        return username, check_password(password, username)
    except ValueError as error:
        raise ValueError(f"ADMIN_PASSWORD {error}.") from None


class FirstAdmin:
    """Background task that creates the first administrator once the database is reachable."""

    def __init__(self, transactions: TransactionManager, credentials: Credentials) -> None:
        self._transactions, self._credentials = transactions, credentials
        self._task: asyncio.Task[None] | None = None
        self._is_done = False

    def why_not_done(self) -> str | None:
        """Return the reason why the administrator is missing; None if created or not configured."""
        return None if self._is_done else "the first administrator has not been created yet"

    async def start(self) -> None:
        """Start, if an administrator is configured."""
        wanted = first_admin(self._transactions.settings)
        if wanted is not None:
            self._task = asyncio.create_task(self._make(*wanted))
        else:
            self._is_done = True

    async def stop(self) -> None:
        """Cancel the task."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def done(self) -> None:
        """Wait until the administrator exists."""
        if self._task is not None:
            await self._task

    async def _make(self, username: str, password: str) -> None:
        has_logged = False
        pauses = growing_pauses(*PAUSES_SECONDS)
        while True:
            try:
                await ensure_admin(self._transactions, self._credentials, username, password)
                self._is_done = True
                return
            except (OSError, DBAPIError, DomainError) as error:
                if not has_logged:
                    log.warning("first_admin_waits", error=type(error).__name__)
                    has_logged = True
                await asyncio.sleep(next(pauses))
