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
OVERSIZED = "scripts/oversized.txt"
"""Modules and functions (`path:name`) that are still to be split."""
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


def find_oversized(path: str, text: str) -> Iterator[tuple[str, str]]:
    """Compare a module and its functions with the limits. Yields names and messages."""
    limit = TEST_MODULE_LINES if path.startswith("tests/") else MODULE_LINES
    lines = text.count("\n")
    if lines > limit:
        yield path, f"{path}: {lines} lines, at most {limit}: split it by topic"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > FUNCTION_LINES:
                message = f"{node.name} has {length} lines, at most {FUNCTION_LINES}"
                yield f"{path}:{node.name}", f"{path}:{node.lineno}: {message}"


def check_sizes(paths: list[str]) -> Iterator[str]:
    """Find oversized code that is not listed in `oversized.txt`, and stale entries of that list."""
    listed = set((ROOT / OVERSIZED).read_text(encoding="utf-8").split())
    found: dict[str, str] = {}
    for path in paths:
        found |= find_oversized(path, (ROOT / path).read_text(encoding="utf-8"))
    yield from (message for name, message in sorted(found.items()) if name not in listed)
    yield from (f"{OVERSIZED}: {name} is small enough: remove it" for name in listed - set(found))


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


def main() -> int:
    """Run every check and print the findings."""
    paths = python_files()
    findings = [*check_names(paths), *check_sizes(paths)]
    for finding in findings:
        print(finding)
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
