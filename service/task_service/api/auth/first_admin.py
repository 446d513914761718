"""What must be true before the API starts, and the administrator who is made when there is none."""

import asyncio
from pathlib import Path

import structlog
from sqlalchemy.exc import DBAPIError

from task_service.api.auth.signing_keys import NoKeyError, SigningKeys
from task_service.clocks import growing_pauses
from task_service.domain.errors import DomainError
from task_service.domain.password_rules import check_password
from task_service.schemas.users import check_username
from task_service.services.context import Context
from task_service.services.identity.users import Credentials, ensure_admin
from task_service.settings import Settings

PAUSES_SECONDS = (0.1, 5.0)
"""Between two attempts: at first, and at most."""
log = structlog.get_logger(__name__)


class StartRefusedError(Exception):
    """The API must not start with these settings; the text has a line for each reason."""


def refuse_bad_start(settings: Settings) -> None:
    """Raise StartRefusedError, which says what to change, unless the API may start with these settings."""
    reasons = []
    if settings.environment == "production":
        if settings.debug:
            reasons.append(
                "DEBUG shows the inside of faults to callers: it must be off while ENVIRONMENT=production."
            )
        if settings.auth_mode == "open":
            reasons.append(
                "AUTH_MODE=open lets everybody do everything: it must be required in production."
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
    """Name and password of the administrator to make; None when none is given. ValueError for bad ones."""
    password, file = settings.admin_password, settings.admin_password_file
    if file is not None and settings.admin_username is None and not file.exists():
        return None  # a Secret is mounted that has no administrator
    if file is not None:
        password = Path(file).read_text().rstrip("\r\n") or None
    if settings.admin_username is None and password is None:
        return None
    if settings.admin_username is None or password is None:
        raise ValueError("ADMIN_USERNAME and ADMIN_PASSWORD must be given together.")
    try:
        username = check_username(settings.admin_username)
    except ValueError as error:
        raise ValueError(f"ADMIN_USERNAME {error}.") from None
    try:
        return username, check_password(password, username)
    except ValueError as error:
        raise ValueError(f"ADMIN_PASSWORD {error}.") from None


class FirstAdmin:
    """Makes the first administrator as soon as the database answers; a loop beside the API's requests."""

    def __init__(self, context: Context, credentials: Credentials) -> None:
        self._context, self._credentials = context, credentials
        self._task: asyncio.Task[None] | None = None
        self._is_done = False

    def why_not_done(self) -> str | None:
        """Why nobody can log in yet, in words; None when an administrator is made, or none is to be."""
        return None if self._is_done else "the first administrator is not made yet"

    async def start(self) -> None:
        """Begin, when an administrator is named."""
        wanted = first_admin(self._context.settings)
        if wanted is not None:
            self._task = asyncio.create_task(self._make(*wanted))
        else:
            self._is_done = True

    async def stop(self) -> None:
        """Give up."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def done(self) -> None:
        """Wait until there is an administrator."""
        if self._task is not None:
            await self._task

    async def _make(self, username: str, password: str) -> None:
        said = False
        pauses = growing_pauses(*PAUSES_SECONDS)
        while True:
            try:
                await ensure_admin(self._context, self._credentials, username, password)
                self._is_done = True
                return
            except (OSError, DBAPIError, DomainError) as error:
                if not said:
                    log.warning("first_admin_waits", error=type(error).__name__)
                    said = True
                await asyncio.sleep(next(pauses))
