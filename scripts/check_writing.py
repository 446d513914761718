"""Check the language of the repository: listed phrases, docstrings and test names.

Usage: `python scripts/check_writing.py [--count] [PATH ...]`. Without a path it checks every tracked
file. It prints one line per violation and exits with 1 if there is one. `--count` prints the number
of listed phrases per thousand words instead.
"""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
SUFFIXES = {
    ".c", ".css", ".go", ".html", ".js", ".json", ".lua", ".mako", ".md", ".py", ".sh", ".sql",
    ".toml", ".tpl", ".txt", ".yaml", ".yml",
}  # fmt: skip
SCRIPTS = ("Makefile", "Dockerfile", "scripts/", ".ci/")  # text files without a suffix
SKIPPED = (
    "service/task_service/api/http/documentation_assets/",
    "LICENSE", "bench/results/", "requirements/", "scripts/phrases.toml", "tests/charts/schemas/",
    "tests/cluster/kube/go.", "tests/conformance/seeds/", "bench/rivals/requirements/",
)  # fmt: skip
TEST_NAME_MAX = 80
RIDDLE = re.compile(r"(What|Who|Whose|Whether|Which|Where|When|If|Twice|Of|Nothing)\b")


class Rule(NamedTuple):
    """One pattern and the wording that replaces it."""

    pattern: re.Pattern[str]
    instead: str


class Violation(NamedTuple):
    """One place that breaks a rule."""

    path: str
    line: int
    message: str


def load_rules() -> list[Rule]:
    """Read the phrases and names of `phrases.toml`."""
    tables = tomllib.loads((ROOT / "scripts/phrases.toml").read_text(encoding="utf-8"))
    phrases = [
        Rule(re.compile(rf"(?<![A-Za-z])(?:{pattern})(?![A-Za-z])", re.IGNORECASE), instead)
        for pattern, instead in tables["phrases"].items()
    ]
    names = [
        Rule(re.compile(rf"(?<![A-Za-z_])(?:{pattern})(?![A-Za-z_])"), instead)
        for pattern, instead in tables["names"].items()
    ]
    return phrases + names


def tracked_files(paths: list[str]) -> Iterator[str]:
    """List the tracked text files below `paths`, relative to the root."""
    command = ["git", "ls-files", "-z", "--", *paths]
    output = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for path in filter(None, output.split("\0")):
        is_text = Path(path).suffix in SUFFIXES or path.startswith(SCRIPTS)
        if is_text and not path.startswith(SKIPPED) and (ROOT / path).is_file():
            yield path


def check_phrases(path: str, text: str, rules: list[Rule]) -> Iterator[Violation]:
    """Report listed phrases, line by line."""
    for number, line in enumerate(text.splitlines(), start=1):
        for rule in rules:
            if match := rule.pattern.search(line):
                yield Violation(path, number, f"'{match.group()}': write {rule.instead}")


def check_python(path: str, text: str) -> Iterator[Violation]:
    """Check docstring summaries and test names."""
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        line = getattr(node, "lineno", 1)
        docstring = ast.get_docstring(node)
        if docstring and (match := RIDDLE.match(docstring)):
            message = f"a docstring starts with '{match.group()}': use a noun phrase or a verb"
            yield Violation(path, line, message)
        name = getattr(node, "name", "")
        if name.startswith("test_") and len(name) > TEST_NAME_MAX:
            yield Violation(
                path, line, f"a test name has at most {TEST_NAME_MAX} characters: {name}"
            )


def main(arguments: list[str]) -> int:
    """Run every check and print the violations."""
    rules = load_rules()
    counting = "--count" in arguments
    violations: list[Violation] = []
    words = phrases = 0
    for path in tracked_files([a for a in arguments if a != "--count"]):
        text = (ROOT / path).read_text(encoding="utf-8")
        words += len(re.findall(r"[A-Za-z]+", text))
        found = list(check_phrases(path, text, rules))
        phrases += len(found)
        violations += found
        if path.endswith(".py"):
            violations += check_python(path, text)
    if counting:
        rate = 1000 * phrases / max(words, 1)
        print(f"{phrases} listed phrases in {words} words: {rate:.2f} per thousand")
        return 0
    for violation in violations:
        print(f"{violation.path}:{violation.line}: {violation.message}")
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
