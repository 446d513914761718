"""Milliseconds from a task's commit to the begin of its handler: on an idle worker, and at 70 % of
its load.

What it bears is found first: of one worker's drain and one producer's bulk rate, the rate at which
both could be done one after the other. Under load tasks come in commits of 5 ms each.
"""

from collections.abc import Iterator

from bench.rivals.bench import Bench
from bench.rivals.catalogue import Product
from bench.rivals.figures import Measures

EVERYONE = True
LOAD = 0.7
LOAD_SECONDS = 5.0
QUICK = 2_500
"""Products of at least this pace get all samples, the others a quarter."""


def rounds(bench: Bench, product: Product) -> Iterator[Measures]:
    """The samples are spread over the rounds."""
    options = bench.options
    samples = max(1, options.samples // options.rounds // (1 if product.pace >= QUICK else 4))
    for _ in range(options.rounds):
        with bench.stage(product) as stage:
            idle = stage.idle_waits(samples)
        rate = LOAD * bearable(bench, product)
        with bench.stage(product) as stage:
            loaded, reached = stage.load_waits(rate, LOAD_SECONDS)
        yield {"idle": idle, "at 70 %": loaded, "at 70 %, tasks/s": reached}


def bearable(bench: Bench, product: Product) -> float:
    """Tasks per second that can be entered and run, measured once in a run."""
    if product.name not in bench.rates:
        count = product.tasks(bench.options.tasks, seconds=2.0)
        with bench.stage(product) as stage:
            entered = stage.fill(count)
            stage.place.settle()
            run = stage.drain(count)
        bench.rates[product.name] = 1 / (1 / entered + 1 / run)
    return bench.rates[product.name]
