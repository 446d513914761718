"""No-op tasks per second, all entered before: one worker process, then two.

Beside the rate: milliseconds of processors that a thousand tasks take, and the part of the cores'
time that was used. The rate divided by that part is the most that the same work allows here.
"""

import os
from collections.abc import Iterator

from bench.rivals.bench import Bench
from bench.rivals.catalogue import Product
from bench.rivals.figures import Measures

EVERYONE = True
WORKERS = (1, 2)


def rounds(bench: Bench, product: Product) -> Iterator[Measures]:
    """A new place for each drain."""
    count = product.tasks(bench.options.tasks)
    for _ in range(bench.options.rounds):
        measured = {}
        for workers in WORKERS:
            with bench.stage(product) as stage:
                stage.fill(count)
                stage.place.settle()
                name = f"{workers} worker{'s' if workers > 1 else ''}"
                measured[f"{name}, tasks/s"] = rate = stage.drain(count, workers)
                measured[f"{name}, their ms of processors for 1,000 tasks"] = stage.spent.workers
                measured[f"{name}, all ms of processors for 1,000 tasks"] = stage.spent.all
                measured[f"{name}, part of the cores' time"] = (
                    rate * stage.spent.all / 1e6 / (os.cpu_count() or 1)
                )
        yield measured
