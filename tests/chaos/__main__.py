"""Run the chaos tests: python -m tests.chaos [--seed N] [--faults 200] [--tasks 100000].

The exit code is 1 if an invariant is broken. `--folder` names a new folder that keeps the events
and logs of the processes.
"""

import argparse
import asyncio
import json
import random
import signal
import sys
import tempfile
from pathlib import Path

import pytest

from tests.chaos.plan import KINDS
from tests.chaos.run import Report, Size, run

PAUSE_SECONDS = 3.2


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    parser.add_argument("--faults", type=int, default=200)
    parser.add_argument("--tasks", type=int, default=100_000)
    parser.add_argument("--kinds", type=lambda text: text.split(","), default=list(KINDS))
    parser.add_argument("--pause", type=float, default=PAUSE_SECONDS)
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    with tempfile.TemporaryDirectory(prefix="task-service-chaos-") as name:
        folder = arguments.folder or Path(name) / "folder"
        folder.mkdir(parents=True)
        try:
            size = Size(arguments.faults, arguments.tasks, arguments.pause, arguments.kinds)
            report = asyncio.run(run(arguments.seed, size, folder))
        except pytest.skip.Exception as skipped:
            sys.exit(str(skipped))
    show(report)
    return 1 if report.broken else 0


def show(report: Report) -> None:
    """Print the figures, then the broken invariants."""
    print(f"seed {report.seed}: {report.seconds:.0f} s")
    for name, counts in report.figures.items():
        kinds = ", ".join(f"{kind} {count:,}" for kind, count in counts.most_common())
        print(f"{name}: {sum(counts.values()):,} ({kinds})")
    for check, rows in report.broken.items():
        print(f"BROKEN: {check}:", *(f"  {json.dumps(row, default=str)}" for row in rows), sep="\n")
    if report.broken:
        print(f"reproduce with --seed {report.seed}")
    else:
        print("no invariant is broken")


if __name__ == "__main__":
    sys.exit(main())
