"""Tasks entered per second by one producer, with no worker: one by one, each committed, and in
bulk.

By the product's library on a connection. This product's service layer, which is what a POST comes
to, has figures of its own.
"""

from collections.abc import Iterator

from bench.rivals.bench import Bench
from bench.rivals.catalogue import OURS, Product
from bench.rivals.figures import Measures

EVERYONE = True


def rounds(bench: Bench, product: Product) -> Iterator[Measures]:
    """A new place for each round."""
    options = bench.options
    bulk = product.bulk_tasks(options.tasks)
    for _ in range(options.rounds):
        with bench.stage(product) as stage:
            measured = {"one by one, tasks/s": stage.fill(options.single, "one")}
            if product is OURS:
                measured["one by one through the service, tasks/s"] = stage.fill(
                    options.single, "through_service"
                )
            measured["bulk, tasks/s"] = stage.fill(bulk)
        if product is OURS:
            with bench.stage(product) as stage:
                measured["bulk through the service, tasks/s"] = stage.fill(
                    bulk, "many_through_service"
                )
        yield measured
