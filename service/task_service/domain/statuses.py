"""The statuses of a task and the changes that people may make. (What workers do is in `outcomes`.)"""

from enum import StrEnum

from task_service.domain.errors import HeldByWorkerError, TransitionError


class Status(StrEnum):
    """What a task's state is called, everywhere."""

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
    """Read a status without regard to case; a hyphen or blank counts as an underscore.

    >>> parse_status("In-Progress")
    <Status.IN_PROGRESS: 'in_progress'>
    >>> parse_status("done")
    Traceback (most recent call last):
    ValueError: unknown status 'done': use pending, scheduled, processing, in_progress, completed, failed, cancelled
    """
    try:
        return Status(text.strip().lower().replace("-", "_").replace(" ", "_"))
    except ValueError:
        raise ValueError(f"unknown status {text[:50]!r}: use {', '.join(Status)}") from None


def check_change(current: Status, wanted: Status) -> bool:
    """Tell whether a person's change does anything; raise when it is not allowed.

    Raises HeldByWorkerError for a task that a worker holds, TransitionError for any other change that makes no sense.

    >>> check_change(Status.PENDING, Status.CANCELLED), check_change(Status.PENDING, Status.PENDING)
    (True, False)
    >>> check_change(Status.COMPLETED, Status.FAILED)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    task_service.domain.errors.TransitionError: A task that is completed cannot become failed; allowed: pending, ...
    """
    if wanted == current:
        return False
    if wanted in ALLOWED[current]:
        return True
    if current is Status.PROCESSING:
        raise HeldByWorkerError
    raise TransitionError(current, wanted, ALLOWED[current])
