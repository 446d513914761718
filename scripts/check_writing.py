"""Check the language of the repository: listed phrases, docstrings and test names.

Usage: `python scripts/check_writing.py [--count] [PATH ...]`. Without a path it checks every
tracked file. It prints one line per violation and exits with 1 if there is one. `--count` prints
the number of listed phrases per thousand words instead.
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
LINE_MAX = 100
UNFINISHED = "scripts/unfinished.txt"
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
    """Check the line length, docstring summaries and test names."""
    for number, source_line in enumerate(text.splitlines(), start=1):
        if len(source_line) > LINE_MAX and "# noqa: E501" not in source_line:
            yield Violation(path, number, f"a line has at most {LINE_MAX} characters")
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        line: int = getattr(node, "lineno", 1)
        docstring = ast.get_docstring(node)
        if docstring and (match := RIDDLE.match(docstring)):
            message = f"a docstring starts with '{match.group()}': use a noun phrase or a verb"
            yield Violation(path, line, message)
        name = getattr(node, "name", "")
        if name.startswith("test_") and len(name) > TEST_NAME_MAX:
            yield Violation(
                path, line, f"a test name has at most {TEST_NAME_MAX} characters: {name}"
            )


def check_file(path: str, rules: list[Rule]) -> list[Violation]:
    """Run every check on one file."""
    text = (ROOT / path).read_text(encoding="utf-8")
    violations = list(check_phrases(path, text, rules))
    return violations + list(check_python(path, text)) if path.endswith(".py") else violations


def print_count(paths: list[str], rules: list[Rule]) -> None:
    """Print the number of listed phrases per thousand words."""
    texts = {path: (ROOT / path).read_text(encoding="utf-8") for path in paths}
    words = sum(len(re.findall(r"[A-Za-z]+", text)) for text in texts.values())
    phrases = sum(len(list(check_phrases(*item, rules))) for item in texts.items())
    rate = 1000 * phrases / max(words, 1)
    print(f"{phrases} listed phrases in {words} words: {rate:.2f} per thousand")


def main(arguments: list[str]) -> int:
    """Run every check and print the violations."""
    rules = load_rules()
    given = [argument for argument in arguments if argument != "--count"]
    paths = list(tracked_files(given))
    if "--count" in arguments:
        print_count(paths, rules)
        return 0
    violations = [violation for path in paths for violation in check_file(path, rules)]
    if not given:
        unfinished = set((ROOT / UNFINISHED).read_text(encoding="utf-8").split())
        finished = unfinished - {violation.path for violation in violations}
        violations = [v for v in violations if v.path not in unfinished]
        violations += [Violation(UNFINISHED, 1, f"{path} is clean: remove it") for path in finished]
    for violation in violations:
        print(f"{violation.path}:{violation.line}: {violation.message}")
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
