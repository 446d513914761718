"""Drain and latency with many finished tasks in the database, and with many pending ones, against
an empty one.

Finished tasks are ones that the product itself has run before. Beside pending ones the drain runs
as many tasks as the others from the head of the backlog; single tasks then go through a queue of
their own, while the backlog waits.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack

from bench.rivals.bench import Bench
from bench.rivals.catalogue import QUEUE, Product
from bench.rivals.figures import Measures
from bench.rivals.processes import BenchError
from bench.rivals.stage import Stage

EVERYONE = False
OTHER_QUEUE = "express"


def rounds(bench: Bench, product: Product) -> Iterator[Measures]:
    """Both full places are filled once; the empty one is new in each round."""
    if not product.durable:
        raise BenchError("has one database only")
    options = bench.options
    count = product.tasks(options.tasks)
    with ExitStack() as stack:
        finished = stack.enter_context(bench.stage(product, "_finished"))
        finished.fill(options.finished)
        finished.drain(options.finished)
        finished.place.settle()
        pending = stack.enter_context(bench.stage(product, "_pending"))
        pending.fill(options.pending)
        for _ in range(options.rounds):
            with bench.stage(product) as stage:
                rate, waits = _measured(bench, stage, count)
            measured: dict[str, float | Sequence[float]] = {"empty, tasks/s": rate, "empty": waits}
            for name, stage, backlog in (
                (f"{options.finished:,} finished", finished, 0),
                (f"{options.pending:,} pending", pending, options.pending),
            ):
                full, waits = _measured(bench, stage, count, backlog)
                measured |= {
                    f"{name}, tasks/s": full,
                    f"{name}, part of empty": full / rate,
                    name: waits,
                }
            yield measured


def _measured(
    bench: Bench, stage: Stage, count: int, backlog: int = 0
) -> tuple[float, list[float]]:
    """Tasks per second, and milliseconds of single ones."""
    samples = max(1, bench.options.samples // bench.options.rounds)
    stage.fill(count)
    stage.place.settle()
    rate = stage.drain_some(count, backlog + count) if backlog else stage.drain(count)
    return rate, stage.idle_waits(samples, OTHER_QUEUE if backlog else QUEUE)
