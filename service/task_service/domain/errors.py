"""Errors that callers can cause or must handle. The API maps their stable codes to HTTP."""

from collections.abc import Mapping, Sequence
from typing import Any


class DomainError(Exception):
    """An expected error with a stable ``code``, a message, and extra fields for programs."""

    code = "error"

    def __init__(self, message: str, **extra: Any) -> None:
        super().__init__(message)
        self.message = message
        self.extra: Mapping[str, Any] = extra


class NotFoundError(DomainError):
    """The resource does not exist or is deleted."""

    code = "not_found"

    def __init__(self, what: str, key: object) -> None:
        super().__init__(f"There is no {what} {key}.", resource=what, key=str(key))


class InvalidFieldError(DomainError):
    """A field is invalid. ``field`` is its name in the request."""

    code = "invalid_field"

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}", errors=[{"field": field, "message": message}])


class InvalidFileError(DomainError):
    """A file cannot be imported. ``errors`` are the first of ``error_count``.

    Each has line, column, field and message.
    """

    code = "invalid_file"

    def __init__(self, message: str, errors: Sequence[Mapping[str, Any]], error_count: int) -> None:
        super().__init__(message, errors=list(errors), error_count=error_count)


class TransitionError(DomainError):
    """A change of status that is not allowed. ``allowed`` lists the allowed ones."""

    code = "invalid_transition"

    def __init__(self, current: str, wanted: str, allowed: Sequence[str]) -> None:
        choices = ", ".join(allowed) or "none"
        message = f"A task that is {current} cannot become {wanted}; allowed: {choices}."
        super().__init__(message, current=current, wanted=wanted, allowed=list(allowed))


class HeldByWorkerError(DomainError):
    """A worker holds the task, so users may only cancel it."""

    code = "held_by_worker"

    def __init__(self) -> None:
        super().__init__(
            "A worker holds this task; it can only be cancelled.", allowed=["cancelled"]
        )


class StaleVersionError(DomainError):
    """The caller's ``If-Match`` differs from the current ETag.

    The ETag is None if the resource does not exist, or ``If-None-Match`` forbids the write.
    """

    code = "stale_version"

    def __init__(self, current: str | None, what: str = "task") -> None:
        super().__init__(
            f"The {what} has changed since you read it; read it again.", current_etag=current
        )


class UnavailableError(DomainError):
    """The database is unreachable. Nothing was changed."""

    code = "unavailable"

    def __init__(self, message: str = "The database is unreachable; try again.") -> None:
        super().__init__(message)


class UnauthorizedError(DomainError):
    """The caller is not authenticated: the token is missing or invalid."""

    code = "unauthorized"


class InvalidTokenError(UnauthorizedError):
    """The token is invalid or expired. A new one may be valid."""

    code = "invalid_token"


class ForbiddenError(DomainError):
    """The caller lacks the permission. ``needs`` is the required role."""

    code = "forbidden"


class IdempotencyConflictError(DomainError):
    """The Idempotency-Key was used for a different request."""

    code = "idempotency_conflict"


class TooManyRequestsError(DomainError):
    """The caller exceeded a rate limit, which resets after ``retry_after_seconds``."""

    code = "too_many_requests"

    def __init__(self, retry_after_seconds: int) -> None:
        super().__init__(
            "Too many requests, please try again later.", retry_after_seconds=retry_after_seconds
        )


class ConflictError(DomainError):
    """The resource exists already or is in use. The message names the conflict."""

    code = "conflict"
