"""Statuses of tasks and the changes that users may make. `outcomes` covers those by workers."""

from enum import StrEnum

from task_service.domain.errors import HeldByWorkerError, TransitionError


class Status(StrEnum):
    """The status of a task."""

    PENDING = "pending"
    SCHEDULED = "scheduled"
    PROCESSING = "processing"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


OPEN = frozenset({Status.PENDING, Status.SCHEDULED, Status.PROCESSING, Status.IN_PROGRESS})

ALLOWED: dict[Status, tuple[Status, ...]] = {
    Status.PENDING: (Status.IN_PROGRESS, Status.COMPLETED, Status.FAILED, Status.CANCELLED),
    Status.SCHEDULED: (
        Status.PENDING,
        Status.IN_PROGRESS,
        Status.COMPLETED,
        Status.FAILED,
        Status.CANCELLED,
    ),
    Status.PROCESSING: (Status.CANCELLED,),
    Status.IN_PROGRESS: (Status.PENDING, Status.COMPLETED, Status.FAILED, Status.CANCELLED),
    Status.COMPLETED: (Status.PENDING, Status.IN_PROGRESS),
    Status.FAILED: (Status.PENDING, Status.IN_PROGRESS, Status.CANCELLED),
    Status.CANCELLED: (Status.PENDING, Status.IN_PROGRESS),
}


def parse_status(text: str) -> Status:
    """Parse a status. Case is ignored; a hyphen or space counts as an underscore.

    >>> parse_status("In-Progress")
    <Status.IN_PROGRESS: 'in_progress'>
    >>> parse_status("done")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: unknown status 'done': use pending, scheduled, ...
    """
    try:
        return Status(text.strip().lower().replace("-", "_").replace(" ", "_"))
    except ValueError:
        raise ValueError(f"unknown status {text[:50]!r}: use {', '.join(Status)}") from None


def check_change(current: Status, wanted: Status) -> bool:
    """Return whether a user's change has an effect.

    Raises HeldByWorkerError for a task that a worker holds, and TransitionError for other changes
    that are not allowed.

    >>> check_change(Status.PENDING, Status.CANCELLED), check_change(Status.PENDING, Status.PENDING)
    (True, False)
    >>> check_change(Status.COMPLETED, Status.FAILED)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    task_service.domain.errors.TransitionError: A task that is completed cannot become failed...
    """
    if wanted == current:
        return False
    if wanted in ALLOWED[current]:
        return True
    if current is Status.PROCESSING:
        raise HeldByWorkerError
    raise TransitionError(current, wanted, ALLOWED[current])
