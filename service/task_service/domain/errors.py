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
        super().__init__("A worker holds this task; it can only be cancelled.", allowed=["cancelled"])


class StaleVersionError(DomainError):
    """The caller's ``If-Match`` is not the task's present ETag."""

    code = "stale_version"

    def __init__(self, current: str) -> None:
        super().__init__("The task has changed since you read it; read it again.", current_etag=current)


class UnavailableError(DomainError):
    """The database cannot be reached at the moment; nothing was changed."""

    code = "unavailable"

    def __init__(self, message: str = "The database cannot be reached at the moment; try again.") -> None:
        super().__init__(message)
