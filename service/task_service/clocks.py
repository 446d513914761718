"""Clocks that are not the wall's."""

import time


def machine_seconds() -> float:
    """Seconds that pass also while this process or the machine is stopped."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
