"""Tasks entered per second by one producer, with no worker: one by one, each committed, and in bulk."""

from collections.abc import Iterator

from bench.rivals.bench import Bench
from bench.rivals.catalogue import Product
from bench.rivals.figures import Measures

EVERYONE = True


def rounds(bench: Bench, product: Product) -> Iterator[Measures]:
    """A new place for each round."""
    options = bench.options
    bulk = product.bulk_tasks(options.tasks)
    for _ in range(options.rounds):
        with bench.stage(product) as stage:
            single = stage.fill(options.single, "one")
            yield {"one by one, tasks/s": single, "bulk, tasks/s": stage.fill(bulk)}
