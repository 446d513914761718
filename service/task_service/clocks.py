"""Clocks that are not the wall's, and pauses."""

import time
from collections.abc import Iterator

ALSO_WHILE_STOPPED = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def machine_seconds() -> float:
    """Seconds that pass also while this process or the machine is stopped."""
    return time.clock_gettime(ALSO_WHILE_STOPPED)


def growing_pauses(first: float, longest: float) -> Iterator[float]:
    """Seconds between attempts: doubled each time, up to the longest.

    >>> pauses = growing_pauses(0.5, 1.5)
    >>> next(pauses), next(pauses), next(pauses), next(pauses)
    (0.5, 1.0, 1.5, 1.5)
    """
    while True:
        yield first
        first = min(2 * first, longest)
