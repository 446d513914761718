"""Many worker processes: what they drain together, how many connections they hold, deadlocks that
the server saw.

They have started and wait when the tasks come, all in one commit: 64 processes need longer to start
than to drain.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from bench.rivals.bench import Bench
from bench.rivals.catalogue import Product
from bench.rivals.figures import Measures
from bench.rivals.processes import BenchError
from bench.rivals.servers import Database
from bench.rivals.stage import Stage

EVERYONE = False
CONNECTIONS = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name <> 'bench'"
DEADLOCKS = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
LOOK_SECONDS = 0.1


def rounds(bench: Bench, product: Product) -> Iterator[Measures]:
    """Each size in a new place."""
    if not product.durable:
        raise BenchError("has no connections to PostgreSQL")
    count = product.tasks(bench.options.tasks)
    for _ in range(bench.options.rounds):
        measured = {}
        for workers in bench.options.crowd:
            with bench.stage(product) as stage:
                with _connections(stage) as most:
                    measured[f"{workers} workers, tasks/s"] = stage.burst(count, workers)
                measured[f"{workers} workers, connections"] = max(most)
                measured[f"{workers} workers, deadlocks"] = stage.place.query(DEADLOCKS)
        yield measured


@contextmanager
def _connections(stage: Stage) -> Iterator[list[float]]:
    """Counted again and again within the block."""
    counts, done = [0.0], threading.Event()

    def look() -> None:
        place = Database(stage.place.product, stage.place.url)
        while not done.wait(LOOK_SECONDS):
            counts.append(float(place.query(CONNECTIONS)))
        place.connection.close()

    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield counts
    finally:
        done.set()
        looking.join()
