"""Outcomes of attempts, reasons of releases, and the retry policy."""

from dataclasses import dataclass
from enum import StrEnum


class Outcome(StrEnum):
    """The outcome of an attempt, stored in `runs`."""

    COMPLETED = "completed"
    FAILED = "failed"  # the handler raised an exception, or no attempts are left
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"
    DISCARDED = "discarded"  # the handler rejected the task permanently
    SNOOZED = "snoozed"  # the handler postponed the task; the attempt does not count
    LOST = "lost"  # the worker died
    RELEASED = "released"  # the worker released it


class Reason(StrEnum):
    """The reason why a worker lost or released a task."""

    CRASH = "crash"
    OOM = "oom"
    EVICTION = "eviction"
    NODE = "node"
    DELETED = "deleted"
    ROLLOUT = "rollout"
    DRAIN = "drain"
    SCALE_DOWN = "scale_down"
    SHUTDOWN = "shutdown"
    UNKNOWN_HANDLER = "unknown_handler"
    OUTAGE = "outage"  # the worker was alive but could not renew its lease
    UNKNOWN = "unknown"

    @property
    def counts(self) -> bool:
        """Return whether a started attempt with this end counts against ``max_attempts``.

        >>> [r.value for r in Reason if r.counts]
        ['crash', 'oom']
        """
        return self in (Reason.CRASH, Reason.OOM)

    @property
    def suspicious(self) -> bool:
        """Return whether the task itself may have killed the worker (see `ALONE_AFTER_LOSSES`).

        >>> [r.value for r in Reason if r.suspicious]
        ['crash', 'oom', 'unknown']
        """
        return self.counts or self is Reason.UNKNOWN


ALONE_AFTER_LOSSES = 2
"""Suspicious losses after which a task is claimed alone, so that it harms no other task."""
POISON_AFTER_LOSSES = 3
"""Suspicious losses after which a task fails, because it kills its workers."""

STATUS_OF_OUTCOME = {
    Outcome.COMPLETED: "completed",
    Outcome.FAILED: "failed",
    Outcome.TIMED_OUT: "failed",
    Outcome.DISCARDED: "failed",
    Outcome.LOST: "failed",
    Outcome.CANCELLED: "cancelled",
}
"""The status of a task by the outcome of its final attempt."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential backoff of ``base * 2^(attempt-1)`` seconds, at most ``cap_seconds``.

    ``jitter`` is the fraction by which a delay may differ in both directions.
    """

    base_seconds: float = 1.0
    cap_seconds: float = 300.0
    jitter: float = 0.2

    def delay_seconds(self, attempt: int, random: float) -> float:
        """Return the delay before the next attempt. ``random`` is in [0, 1).

        >>> policy = RetryPolicy(base_seconds=2, cap_seconds=60, jitter=0.5)
        >>> [policy.delay_seconds(n, 0.5) for n in (1, 2, 3, 10)]
        [2.0, 4.0, 8.0, 60.0]
        >>> policy.delay_seconds(1, 0.0)
        1.0
        """
        wait = min(self.cap_seconds, self.base_seconds * 2.0 ** min(attempt - 1, 60))
        return wait * (1 - self.jitter + 2 * self.jitter * random)
