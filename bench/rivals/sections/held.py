"""A transaction that is held open elsewhere, so that VACUUM removes nothing that dies meanwhile:
drains before, during and after, and at the same time in a second place of the product, where none
is held.

A database that is worked in has checkpoints, autovacuum and larger tables than a new one, whatever
is held open; the second place tells what the held transaction costs. Nothing is vacuumed but by
autovacuum. Each drain has new worker processes, which know nothing of earlier claims. Products that
were named take turns in that time too.
"""

import contextlib
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg2

from bench.rivals.bench import Bench
from bench.rivals.catalogue import Product
from bench.rivals.figures import Measures
from bench.rivals.processes import BenchError

EVERYONE = False
HALVES = ("first half", "second half")


def rounds(bench: Bench, product: Product) -> Iterator[Measures]:
    """As many drains before and after as there are rounds, and during it for `held_seconds`, in two
    halves.
    """
    if not product.durable:
        raise BenchError("has no transactions")
    count, again = product.tasks(bench.options.tasks), range(bench.options.rounds)
    seconds = bench.options.held_seconds
    rates: dict[str, list[float]] = {}
    with bench.stage(product) as stage, bench.stage(product, "_free") as free:

        def drained(when: str) -> Measures:
            measured = {}
            for name, one in ((when, stage), (f"{when}, none held", free)):
                one.fill(count)
                rates.setdefault(name, []).append(one.drain(count))
                measured[f"{name}, tasks/s"] = rates[name][-1]
            return measured

        for _ in again:
            yield drained("before")
        with _held(stage.place.url):
            began = time.monotonic()
            while (passed := time.monotonic() - began) < seconds:
                yield drained(HALVES[passed >= seconds / 2])
        for _ in again:
            yield drained("after")
    medians = {name: statistics.median(found) for name, found in rates.items()}
    yield {
        f"{when}, part of {whole}": medians[when] / medians[of]
        for when in (*HALVES, "after")
        if when in medians
        for whole, of in (("before", "before"), ("none held", f"{when}, none held"))
    }


@contextmanager
def _held(url: str) -> Iterator[None]:
    with contextlib.closing(psycopg2.connect(url)) as connection:
        connection.set_session(isolation_level="REPEATABLE READ")  # it keeps its first snapshot
        with connection.cursor() as cursor:
            cursor.execute("SELECT txid_current()")
        yield
        connection.rollback()
