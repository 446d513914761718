"""This product beside its peers: the same work, on one durable PostgreSQL, in one run, in turns.

    python -m bench.rivals [--section drain …] [--only pgqueuer …] [--rounds 5] [--tasks 100000]

Prints a table, puts the sections that were run into bench/results/rivals.json and draws docs/rivals.svg from all that
is there. bench/README.md says what is measured and how.
"""

import argparse
import contextlib
import importlib
import os
import platform
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
from bench.rivals.processes import BenchError
from bench.rivals.servers import OPTIONS, ROOT, Servers

SECTIONS = ("drain", "enqueue", "latency", "flatness", "held", "crowd", "http")
RESULTS = ROOT / "bench" / "results" / "rivals.json"
PLOT = ROOT / "docs" / "rivals.svg"
NAMES = [product.name for product in PRODUCTS]


def run(bench: Bench, sections: Sequence[str], products: Sequence[Product], *, named: bool) -> Figures:
    """Measure these sections one after the other. `named`: these products and no others were asked for."""
    found = Figures()
    ready = []
    for product in products:
        try:
            bench.servers.prepare(product)
            ready.append(product)
        except MissingError as error:
            say(f"{product.name} is left out: {error}")
    for name in sections:
        section = importlib.import_module(f"bench.rivals.sections.{name}")
        chosen = ready if section.EVERYONE or named else [OURS]
        interleave(name, {product: section.rounds(bench, product) for product in chosen}, found)
    return found


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
            except (BenchError, OSError) as error:
                say(f"{name}: {product.name} failed: {error}")
                found.fail(name, product.name, str(error))
                del rounds[product]


def about(bench: Bench, products: Sequence[Product]) -> dict[str, Any]:
    """What the figures depend on."""
    versions: dict[str, Any] = {}
    for product in products:
        with contextlib.suppress(MissingError):
            versions[product.name] = versions_of(product) | {"durable": product.durable}
    return {
        "at": datetime.now(UTC).isoformat(timespec="minutes"), "cores": os.cpu_count(), "kernel": platform.release(),
        "postgresql": bench.servers.version(), "server": OPTIONS, "options": vars(bench.options), "products": versions,
    }  # fmt: skip


def say(text: str) -> None:
    """A line of progress."""
    print(f"{datetime.now(UTC):%H:%M:%S} {text}", flush=True)


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.rivals", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--section", nargs="+", choices=SECTIONS, default=SECTIONS, help="all by default")
    parser.add_argument("--only", nargs="+", choices=NAMES, metavar="NAME", help=f"of {', '.join(NAMES)}")
    for name, default in vars(Options()).items():
        kind = type(default)
        option = f"--{name.replace('_', '-')}"
        if kind is tuple:
            parser.add_argument(option, nargs="+", type=int, default=default, help=f"{' '.join(map(str, default))}")
        else:
            parser.add_argument(option, type=kind, default=default, help=f"{default}")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the file that is written")
    parser.add_argument("--plot", type=Path, default=PLOT, help="the picture that is drawn")
    return parser.parse_args()


def main() -> None:
    """Run, print, write, draw."""
    given = parsed()
    options = Options(**{name: getattr(given, name) for name in vars(Options())})
    products = [p for p in PRODUCTS if given.only is None or p.name in given.only]
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="task-service-bench-", dir="/var/tmp") as folder:
        servers = Servers(Path(folder))
        bench = Bench(options, servers, Path(folder))
        with servers.running():
            found = run(bench, given.section, products, named=given.only is not None).summary()
            whole = figures.write(given.results, about(bench, products), found)
    for line in figures.lines(found, OURS.name):
        print(line)
    draw(whole["sections"], given.plot, OURS.name, CEILING.name)
    say(f"in {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
