"""Errors that a user can cause or must know of. Each has a stable code; the API maps codes to HTTP in one place."""

from collections.abc import Mapping, Sequence
from typing import Any


class DomainError(Exception):
    """A refusal with a stable ``code``, a sentence for people, and extra fields for machines."""

    code = "error"

    def __init__(self, message: str, **extra: Any) -> None:
        super().__init__(message)
        self.message = message
        self.extra: Mapping[str, Any] = extra


class NotFoundError(DomainError):
    """The named thing does not exist, or is deleted."""

    code = "not_found"

    def __init__(self, what: str, key: object) -> None:
        super().__init__(f"There is no {what} {key}.", resource=what, key=str(key))


class InvalidFieldError(DomainError):
    """A field breaks its rule; ``field`` names it as the caller wrote it."""

    code = "invalid_field"

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}", errors=[{"field": field, "message": message}])


class InvalidFileError(DomainError):
    """A file cannot be imported; ``errors`` (line, column, field, message) are the first of ``error_count``."""

    code = "invalid_file"

    def __init__(self, message: str, errors: Sequence[Mapping[str, Any]], error_count: int) -> None:
        super().__init__(message, errors=list(errors), error_count=error_count)


class TransitionError(DomainError):
    """A change of status that makes no sense; ``allowed`` lists those that do."""

    code = "invalid_transition"

    def __init__(self, current: str, wanted: str, allowed: Sequence[str]) -> None:
        choices = ", ".join(allowed) or "none"
        message = f"A task that is {current} cannot become {wanted}; allowed: {choices}."
        super().__init__(message, current=current, wanted=wanted, allowed=list(allowed))


class HeldByWorkerError(DomainError):
    """A worker holds the task: a person may only cancel it."""

    code = "held_by_worker"

    def __init__(self) -> None:
        super().__init__(
            "A worker holds this task; it can only be cancelled.", allowed=["cancelled"]
        )


class StaleVersionError(DomainError):
    """The caller's ``If-Match`` is not the present ETag; None: nothing is there, or ``If-None-Match`` forbids it."""

    code = "stale_version"

    def __init__(self, current: str | None, what: str = "task") -> None:
        super().__init__(
            f"The {what} has changed since you read it; read it again.", current_etag=current
        )


class UnavailableError(DomainError):
    """The database cannot be reached at the moment; nothing was changed."""

    code = "unavailable"

    def __init__(
        self, message: str = "The database cannot be reached at the moment; try again."
    ) -> None:
        super().__init__(message)


class UnauthorizedError(DomainError):
    """Nobody knows who the caller is: no token, or not a good one."""

    code = "unauthorized"


class InvalidTokenError(UnauthorizedError):
    """The token that was sent is not good (any more): a fresh one may be."""

    code = "invalid_token"


class ForbiddenError(DomainError):
    """The caller is known, but has no right to this; ``needs`` names the role that has."""

    code = "forbidden"


class IdempotencyConflictError(DomainError):
    """The Idempotency-Key was used before for another request."""

    code = "idempotency_conflict"


class TooManyRequestsError(DomainError):
    """The caller's rate limit is used up; ``retry_after_seconds`` says for how long."""

    code = "too_many_requests"

    def __init__(self, retry_after_seconds: int) -> None:
        super().__init__(
            "Too many requests, please try again later.", retry_after_seconds=retry_after_seconds
        )


class ConflictError(DomainError):
    """There is one of that name already, or it is in use; the message says what."""

    code = "conflict"
