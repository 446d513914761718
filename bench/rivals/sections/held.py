"""A transaction that is held open elsewhere, so that VACUUM removes nothing that dies meanwhile: drains before, during
and after.

Nothing is vacuumed but by autovacuum. Each drain has new worker processes, which know nothing of earlier claims.
Products that were named take turns in that time too.
"""

import contextlib
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg2  # type: ignore[import-untyped]

from bench.rivals.bench import Bench
from bench.rivals.catalogue import Product
from bench.rivals.figures import Measures
from bench.rivals.processes import BenchError

EVERYONE = False


def rounds(bench: Bench, product: Product) -> Iterator[Measures]:
    """As many drains before and after as there are rounds, and during it for `held_seconds`, in two halves."""
    if not product.durable:
        raise BenchError("has no transactions")
    count, again = product.tasks(bench.options.tasks), range(bench.options.rounds)
    seconds = bench.options.held_seconds
    rates: dict[str, list[float]] = {name: [] for name in ("before", "held, first half", "held, second half", "after")}
    with bench.stage(product) as stage:

        def drained(name: str) -> Measures:
            stage.fill(count)
            rates[name].append(stage.drain(count))
            return {f"{name}, tasks/s": rates[name][-1]}

        for _ in again:
            yield drained("before")
        with _held(stage.place.url):
            began = time.monotonic()
            while (passed := time.monotonic() - began) < seconds:
                yield drained("held, first half" if passed < seconds / 2 else "held, second half")
        for _ in again:
            yield drained("after")
    before = statistics.median(rates.pop("before"))
    yield {f"{name}, part of before": statistics.median(found) / before for name, found in rates.items() if found}


@contextmanager
def _held(url: str) -> Iterator[None]:
    with contextlib.closing(psycopg2.connect(url)) as connection:
        connection.set_session(isolation_level="REPEATABLE READ")  # it keeps its first snapshot
        with connection.cursor() as cursor:
            cursor.execute("SELECT txid_current()")
        yield
        connection.rollback()
