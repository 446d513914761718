"""Write the generated files (`make generate`), or list the stale ones (`make check`).

Each generator is a function `main(check)`. It returns the paths of the files whose content differs
from what it generates, and writes them unless `check` is true.
"""

import argparse
import importlib
import sys

GENERATORS = (
    "task_operator.generate",  # values schema, CRD and reference page, from the spec models
    "task_service.generate.env_example",
    "task_service.generate.api_reference",
    "task_service.generate.permission_reference",
)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--check", action="store_true", help="write nothing; fail if a file is stale"
    )
    check: bool = parser.parse_args().check
    stale: list[str] = []
    for module in GENERATORS:
        stale += importlib.import_module(module).main(check)
    for path in stale:
        print(f"{'stale' if check else 'written'}: {path}")
    if check and stale:
        print("Run `make generate` and commit the result.")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
