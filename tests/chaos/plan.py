"""Plan of the faults, drawn from a seed so that a run can be repeated."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

LEASE_SECONDS = 2.0
DIRECT, PROXIED, POOLED = (0, 1), (2, 3), (4, 5)
"""Seats of workers, by their connection to the database."""

KINDS = {
    "kill": 14,  # a worker is killed; its successor in the same slot starts at once
    "replace": 9,  # a worker is killed; a new one starts later in another slot
    "restart": 5,  # a worker is asked to stop, and another one starts
    "stop": 20,  # a worker is stopped for longer than its lease, and resumed
    "clock": 4,  # a worker is replaced by one whose clock is an hour off
    "terminate": 13,  # the server terminates a share of its sessions
    "stall": 11,  # the connections of a worker stall; data arrives late
    "lost_responses": 11,  # requests arrive, responses are lost; then the connections break
    "postgres": 5,  # the server is shut down in immediate mode, and started again
    "backend": 3,  # one of the server's processes is killed, and it restarts all of them
    "disk_full": 6,  # the server refuses writes
    "pooler": 4,  # PgBouncer is killed, and started again
    "redis": 5,  # Redis is killed or suspended, and returns
    "api": 4,  # the API is killed, and started again
}
"""Relative frequency of each kind."""
SEATS = {"stall": PROXIED, "lost_responses": PROXIED}
SECONDS = {
    "replace": (0.5, 2.0),
    "stop": (1.5, 3.0),
    "stall": (0.2, 3.0),
    "lost_responses": (0.1, 2.0),
    "postgres": (0.0, 2.0),
    "disk_full": (0.3, 2.0),
    "pooler": (0.2, 1.5),
    "redis": (0.5, 2.0),
    "api": (0.0, 1.0),
}
"""Shortest and longest duration in leases; other kinds have no duration."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: its delay after the start of the previous one, its seat, and its duration.

    `share`, from 0 to 1, selects a variant: number of sessions, direction, or kind of outage.
    """

    number: int
    kind: str
    pause_seconds: float
    seat: int
    seconds: float
    share: float

    def __str__(self) -> str:
        seat = f"seat {self.seat} for {self.seconds:4.1f} s, share {self.share:.2f}"
        return f"{self.number:4} {self.kind:14} {seat}"


def draw(
    seed: int, faults: int, pause_seconds: float, kinds: Sequence[str] = tuple(KINDS)
) -> list[Fault]:
    """Draw faults of these kinds, each kind at least once if there are enough faults."""
    random = Random(seed)
    drawn = list(kinds)[:faults]
    drawn += random.choices(kinds, [KINDS[kind] for kind in kinds], k=faults - len(drawn))
    random.shuffle(drawn)
    return [_fault(random, number, kind, pause_seconds) for number, kind in enumerate(drawn, 1)]


def _fault(random: Random, number: int, kind: str, pause_seconds: float) -> Fault:
    shortest, longest = SECONDS.get(kind, (0.0, 0.0))
    return Fault(
        number,
        kind,
        pause_seconds=pause_seconds * random.uniform(0.2, 1.8),
        seat=random.choice(SEATS.get(kind, DIRECT + PROXIED + POOLED)),
        seconds=LEASE_SECONDS * random.uniform(shortest, longest),
        share=random.random(),
    )
