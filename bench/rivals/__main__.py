"""This product beside its peers: the same work, on one durable PostgreSQL, in one run, in turns.

    python -m bench.rivals [--section drain …] [--only pgqueuer …] [--rounds 5] [--tasks 100000]

After each section it prints a table, puts the figures into bench/results/rivals.json beside those
of other sections and draws docs/rivals.svg. bench/README.md says what is measured and how.
"""

import argparse
import importlib
import os
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.rivals import figures
from bench.rivals.bench import Bench, Options
from bench.rivals.catalogue import CEILING, OURS, PRODUCTS, Product
from bench.rivals.environments import MissingError, versions_of
from bench.rivals.figures import Figures, Measures
from bench.rivals.plot import draw
from bench.rivals.servers import OPTIONS, ROOT, Servers

SECTIONS = ("drain", "enqueue", "latency", "flatness", "held", "crowd", "http")
RESULTS = ROOT / "bench" / "results" / "rivals.json"
PLOT = ROOT / "docs" / "rivals.svg"
NAMES = [product.name for product in PRODUCTS]


def prepared(servers: Servers, products: Sequence[Product]) -> list[Product]:
    """Those that can be measured on this machine."""
    ready = []
    for product in products:
        try:
            servers.prepare(product)
            ready.append(product)
        except MissingError as error:
            say(f"{product.name} is left out: {error}")
    return ready


def measured(
    bench: Bench, name: str, products: Sequence[Product], *, named: bool
) -> dict[str, Any]:
    """The summary of one section. `named`: these products and no others were asked for."""
    section = importlib.import_module(f"bench.rivals.sections.{name}")
    chosen = [p for p in products if section.EVERYONE or named or p is OURS]
    interleave(
        name, {product: section.rounds(bench, product) for product in chosen}, found := Figures()
    )
    return found.summary()


def interleave(name: str, rounds: dict[Product, Iterator[Measures]], found: Figures) -> None:
    """One round of each product in turn, until none has more; what fails has no more."""
    while rounds:
        for product in list(rounds):
            began = time.monotonic()
            try:
                found.add(name, product.name, next(rounds[product]))
                say(f"{name}: {product.name}, {time.monotonic() - began:.0f} s")
            except StopIteration:
                del rounds[product]
            except Exception as error:  # noqa: BLE001 - one product's failure must not cost an hour's figures
                say(f"{name}: {product.name} failed: {error!r}")
                found.fail(name, product.name, repr(error))
                del rounds[product]


def about(servers: Servers, options: Options, products: Sequence[Product]) -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "at": datetime.now(UTC).isoformat(timespec="minutes"), "cores": os.cpu_count(), "kernel": platform.release(),
        **servers.versions(), "server": OPTIONS, "options": vars(options),
        "products": {p.name: versions_of(p) | {"durable": p.durable} for p in products},
    }  # fmt: skip


def say(text: str) -> None:
    """A line of progress."""
    print(f"{datetime.now(UTC):%H:%M:%S} {text}", flush=True)


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.rivals", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument(
        "--section", nargs="+", choices=SECTIONS, default=SECTIONS, help="all by default"
    )
    parser.add_argument(
        "--only", nargs="+", choices=NAMES, metavar="NAME", help=f"of {', '.join(NAMES)}"
    )
    for name, default in vars(Options()).items():
        kind = type(default)
        option = f"--{name.replace('_', '-')}"
        if kind is tuple:
            parser.add_argument(
                option, nargs="+", type=int, default=default, help=f"{' '.join(map(str, default))}"
            )
        else:
            parser.add_argument(option, type=kind, default=default, help=f"{default}")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the file that is written")
    parser.add_argument("--plot", type=Path, default=PLOT, help="the picture that is drawn")
    return parser.parse_args()


def main() -> None:
    """Run, print, write, draw."""
    given = parsed()
    signal.signal(
        signal.SIGTERM, lambda *_: sys.exit("ended")
    )  # through all that ends what was started
    options = Options(**{name: getattr(given, name) for name in vars(Options())})
    products = [p for p in PRODUCTS if given.only is None or p.name in given.only]
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="task-service-bench-", dir="/var/tmp") as folder:
        servers = Servers(Path(folder))
        bench = Bench(options, servers, Path(folder))
        with servers.running():
            products = prepared(servers, products)
            on = about(servers, options, products)
            for name in given.section:
                found = measured(bench, name, products, named=given.only is not None)
                for line in figures.lines(found, OURS.name):
                    print(line, flush=True)
                draw(
                    figures.write(given.results, on, found)["sections"],
                    given.plot,
                    OURS.name,
                    CEILING.name,
                )
    say(f"in {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
