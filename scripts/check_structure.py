"""Check the structure of the code: size of modules and functions, and names of modules.

Usage: `python scripts/check_structure.py`. It prints one line per finding and exits with 1 if there
are any. import-linter checks the layers; this script checks what no linter does.
"""

import ast
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MODULE_LINES, TEST_MODULE_LINES, FUNCTION_LINES = 300, 400, 40
LONG_MODULES: dict[str, str] = {}
"""Modules that may be longer, with the reason."""
LONG_FUNCTIONS: dict[str, str] = {}
"""Functions that may be longer (`path:name`), with the reason."""
RESOURCES = {
    "app_settings", "audit", "conversations", "daily_log", "dependencies", "events", "idempotency",
    "limits", "progress", "queues", "redrive", "schedules", "statistics", "tasks", "users",
}  # fmt: skip
"""One name per resource, in each layer that has a module for it."""
CONVENTIONAL = {"__init__", "__main__", "cli", "vendor", "metrics", "settings"}
"""Names with one meaning in any package."""


def python_files() -> list[str]:
    """List the tracked Python files."""
    command = ["git", "ls-files", "-z", "--", "*.py"]
    output = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [path for path in output.split("\0") if path and (ROOT / path).is_file()]


def check_sizes(path: str, text: str) -> Iterator[str]:
    """Compare a module and its functions with the limits."""
    limit = TEST_MODULE_LINES if path.startswith("tests/") else MODULE_LINES
    lines = text.count("\n")
    if lines > limit and path not in LONG_MODULES:
        yield f"{path}: {lines} lines, at most {limit}: split it by topic"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > FUNCTION_LINES and f"{path}:{node.name}" not in LONG_FUNCTIONS:
                yield f"{path}:{node.lineno}: {node.name} has {length} lines, not {FUNCTION_LINES}"


def check_names(paths: list[str]) -> Iterator[str]:
    """Find module names that stand in two packages of one distribution with two meanings."""
    places: dict[tuple[str, str], list[str]] = defaultdict(list)
    for path in paths:
        package = path.partition("/")[0]
        if package in {"service", "operator"} and "/versions/" not in path:
            places[package, Path(path).stem].append(path)
    for (_, name), where in sorted(places.items()):
        if len(where) > 1 and name not in RESOURCES | CONVENTIONAL:
            yield f"the module name {name} stands in {len(where)} packages: {', '.join(where)}"


def check_exceptions(paths: list[str]) -> Iterator[str]:
    """Find exceptions that no longer name a file."""
    for key in [*LONG_MODULES, *LONG_FUNCTIONS]:
        if key.partition(":")[0] not in paths:
            yield f"scripts/check_structure.py: the exception {key} names no file"


def main() -> int:
    """Run every check and print the findings."""
    paths = python_files()
    findings = [*check_names(paths), *check_exceptions(paths)]
    for path in paths:
        findings += check_sizes(path, (ROOT / path).read_text(encoding="utf-8"))
    for finding in findings:
        print(finding)
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
