"""Monotonic time and retry pauses."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime

SUSPEND_AWARE_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def machine_seconds() -> float:
    """Return monotonic seconds that include time while the process or machine is suspended."""
    return time.clock_gettime(SUSPEND_AWARE_CLOCK)


def growing_pauses(first: float, longest: float) -> Iterator[float]:
    """Yield the pauses between attempts in seconds: doubled each time, up to `longest`.

    >>> pauses = growing_pauses(0.5, 1.5)
    >>> next(pauses), next(pauses), next(pauses), next(pauses)
    (0.5, 1.0, 1.5, 1.5)
    """
    while True:
        yield first
        first = min(2 * first, longest)


def utc_now() -> datetime:
    """Return the current time in UTC."""
    return datetime.now(UTC)
