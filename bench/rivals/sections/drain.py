"""No-op tasks per second, all entered before: one worker process, then two."""

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
                measured[f"{workers} worker{'s' if workers > 1 else ''}, tasks/s"] = stage.drain(count, workers)
        yield measured
