"""How an attempt ends, why, and what that means for the task's next attempt."""

from dataclasses import dataclass
from enum import StrEnum


class Outcome(StrEnum):
    """What an attempt came to; kept in `runs`."""

    COMPLETED = "completed"
    FAILED = "failed"  # the handler raised, or the task's attempts are used up
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"
    DISCARDED = "discarded"  # the handler says: never again
    SNOOZED = "snoozed"  # the handler says: later, and this did not count
    LOST = "lost"  # the worker died
    RELEASED = "released"  # the worker gave it back alive


class Reason(StrEnum):
    """Why a worker lost or gave back a task."""

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
    OUTAGE = "outage"  # the worker lived on, but could not renew its lease
    UNKNOWN = "unknown"

    @property
    def counts(self) -> bool:
        """Whether a started attempt that ended so counts against ``max_attempts``.

        >>> [r.value for r in Reason if r.counts]
        ['crash', 'oom']
        """
        return self in (Reason.CRASH, Reason.OOM)

    @property
    def suspicious(self) -> bool:
        """Whether the task itself may have killed the worker (see `ALONE_AFTER_LOSSES`).

        >>> [r.value for r in Reason if r.suspicious]
        ['crash', 'oom', 'unknown']
        """
        return self.counts or self is Reason.UNKNOWN


ALONE_AFTER_LOSSES = 2
"""After so many suspicious losses a task is claimed alone: if it kills its worker again, no neighbour is harmed."""
POISON_AFTER_LOSSES = 3
"""After so many suspicious losses a task has failed: it kills its workers."""

STATUS_OF_OUTCOME = {
    Outcome.COMPLETED: "completed",
    Outcome.FAILED: "failed",
    Outcome.TIMED_OUT: "failed",
    Outcome.DISCARDED: "failed",
    Outcome.LOST: "failed",
    Outcome.CANCELLED: "cancelled",
}
"""The status of a task whose final attempt ended so."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential backoff: ``base * 2^(attempt-1)`` seconds, at most ``cap_seconds``, give or take ``jitter``."""

    base_seconds: float = 1.0
    cap_seconds: float = 300.0
    jitter: float = 0.2

    def delay_seconds(self, attempt: int, random: float) -> float:
        """The wait before the next attempt; ``random`` in [0, 1) is injected.

        >>> policy = RetryPolicy(base_seconds=2, cap_seconds=60, jitter=0.5)
        >>> [policy.delay_seconds(n, 0.5) for n in (1, 2, 3, 10)]
        [2.0, 4.0, 8.0, 60.0]
        >>> policy.delay_seconds(1, 0.0)
        1.0
        """
        wait = min(self.cap_seconds, self.base_seconds * 2.0 ** min(attempt - 1, 60))
        return wait * (1 - self.jitter + 2 * self.jitter * random)
