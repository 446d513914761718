"""What all sections are given: the options, the servers, and a stage for a product."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.rivals.catalogue import Product
from bench.rivals.servers import Servers
from bench.rivals.stage import Stage


@dataclass(frozen=True)
class Options:
    """How much is measured. Counts are of tasks; peers that are slow get fewer, for some seconds of
    work.
    """

    rounds: int = 5
    tasks: int = 100_000
    single: int = 3_000
    samples: int = 2_000
    finished: int = 1_000_000
    pending: int = 100_000
    held_seconds: float = 60.0
    crowd: tuple[int, ...] = (2, 8, 32, 64)


@dataclass(frozen=True)
class Bench:
    """One run."""

    options: Options
    servers: Servers
    folder: Path
    rates: dict[str, float] = field(default_factory=dict)
    """What a product can bear at a time, found once: see `sections.latency`."""

    @contextmanager
    def stage(self, product: Product, name: str = "") -> Iterator[Stage]:
        """The product in an empty place, which is gone afterwards."""
        with self.servers.place(product, name) as place:
            yield Stage(place, self.folder)
