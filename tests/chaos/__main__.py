"""Run chaos, and say what came of it: python -m tests.chaos [--seed N] [--faults 200] [--tasks 100000].

Exit code 1 when anything is broken. With `--folder`, a new one, the processes' notes and logs stay there.
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
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    parser.add_argument("--faults", type=int, default=200)
    parser.add_argument("--tasks", type=int, default=100_000)
    parser.add_argument("--kinds", type=lambda text: text.split(","), default=list(KINDS))
    parser.add_argument("--pause", type=float, default=PAUSE_SECONDS)
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    with tempfile.TemporaryDirectory(prefix="task-service-chaos-") as name:
        folder = given.folder or Path(name) / "folder"
        folder.mkdir(parents=True)
        try:
            size = Size(given.faults, given.tasks, given.pause, given.kinds)
            report = asyncio.run(run(given.seed, size, folder))
        except pytest.skip.Exception as missing:
            sys.exit(str(missing))
    show(report)
    return 1 if report.broken else 0


def show(report: Report) -> None:
    """Print the figures, then what is broken."""
    print(f"seed {report.seed}: {report.seconds:.0f} s")
    for name, counts in report.figures.items():
        print(
            f"{name}: {sum(counts.values()):,} ({', '.join(f'{kind} {n:,}' for kind, n in counts.most_common())})"
        )
    for what, rows in report.broken.items():
        print(f"BROKEN: {what}:", *(f"  {json.dumps(row, default=str)}" for row in rows), sep="\n")
    print("nothing is broken" if not report.broken else f"repeat it with --seed {report.seed}")


if __name__ == "__main__":
    sys.exit(main())
