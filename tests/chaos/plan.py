"""Which faults happen, when, to whom and for how long: drawn from a seed, so that a run can be repeated. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

LEASE_SECONDS = 2.0
DIRECT, PROXIED, POOLED = (0, 1), (2, 3), (4, 5)
"""Seats of workers, by the way on which they reach the database."""

KINDS = {
    "kill": 14,  # a worker is killed; its successor in the same slot starts at once
    "vanish": 9,  # a worker is killed; a new one starts later, in another slot: only the lease tells
    "leave": 5,  # a worker is told to end, and another one starts
    "stop": 20,  # a worker is stopped for longer than its lease, and continued
    "clock": 4,  # a worker is replaced by one whose clock is an hour off
    "terminate": 13,  # the server ends a share of its sessions
    "stall": 11,  # a worker's connections stand still; what was sent arrives late
    "deaf": 11,  # a worker's requests arrive, the answers are lost; then its connections break
    "postgres": 5,  # the server is shut down in immediate mode, and started again
    "backend": 3,  # one of the server's processes is killed, and it restarts all of them
    "disk_full": 6,  # the server refuses to write for want of space
    "pooler": 4,  # PgBouncer is killed, and started again
    "redis": 5,  # Redis is killed or hangs, and comes back
    "api": 4,  # the API is killed, and started again
}
"""How often each kind is drawn, in parts of the whole."""
SEATS = {"stall": PROXIED, "deaf": PROXIED}
SECONDS = {
    "vanish": (0.5, 2.0),
    "stop": (1.5, 3.0),
    "stall": (0.2, 3.0),
    "deaf": (0.1, 2.0),
    "postgres": (0.0, 2.0),
    "disk_full": (0.3, 2.0),
    "pooler": (0.2, 1.5),
    "redis": (0.5, 2.0),
    "api": (0.0, 1.0),
}
"""How long a fault lasts, in leases; kinds that are not here last a moment."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: it begins so long after the one before it began, concerns a seat (if workers), and lasts so long.

    `share`, from 0 to 1, is what the kind makes of it: which sessions, forwards or backwards, dead or hanging.
    """

    number: int
    kind: str
    pause_seconds: float
    seat: int
    seconds: float
    share: float

    def __str__(self) -> str:
        return f"{self.number:4} {self.kind:10} seat {self.seat} for {self.seconds:4.1f} s, share {self.share:.2f}"


def draw(
    seed: int, faults: int, pause_seconds: float, kinds: Sequence[str] = tuple(KINDS)
) -> list[Fault]:
    """So many faults of these kinds, each at least once when there are enough of them."""
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
