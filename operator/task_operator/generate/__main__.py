"""`python -m task_operator.generate [--check]`: write the generated files, or list stale ones."""

import argparse
import sys

from task_operator.generate import main


def run() -> int:
    """Run the command; return 1 if --check finds a stale file."""
    parser = argparse.ArgumentParser(prog="python -m task_operator.generate", description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit with 1 if a file is stale"
    )
    check = parser.parse_args().check
    stale = main(check)
    for name in stale:
        print(f"{'stale: run `make generate`: ' if check else 'written: '}{name}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(run())
