"""Dependencies: deptry checks top-level names; these tests check packages that several share."""

import ast
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import distribution, packages_distributions
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXTRAS = {"service/task_service": ("service", "embedded"), "operator/task_operator": ("operator",)}


def declared(extras: tuple[str, ...]) -> set[str]:
    """Names of the base dependencies and of these extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *(project["optional-dependencies"][e] for e in extras)]
    return {re.split(r"[\[<>=~!; ]", entry)[0].lower() for group in groups for entry in group}


def imported(folder: Path) -> Iterator[str]:
    """Dotted names of all absolute imports below the folder; `from a import b` gives `a.b`."""
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                yield from (f"{node.module}.{alias.name}" for alias in node.names)


@cache
def files_of(name: str) -> frozenset[Path]:
    """Installed files of a distribution."""
    return frozenset(Path(str(file.locate())).resolve() for file in distribution(name).files or ())


def owner(name: str, candidates: list[str]) -> str:
    """The distribution that contains the module, or the module that defines the name."""
    try:
        spec = find_spec(name)
    except ModuleNotFoundError:
        spec = None
    if spec is None or spec.origin is None:
        return owner(name.rpartition(".")[0], candidates)
    return next(c for c in candidates if Path(spec.origin).resolve() in files_of(c))


@pytest.mark.parametrize(("folder", "extras"), EXTRAS.items())
def test_modules_of_shared_packages_come_from_declared_dependencies(
    folder: str, extras: tuple[str, ...]
) -> None:
    shared = {top: names for top, names in packages_distributions().items() if len(set(names)) > 1}
    used = {
        owner(name, sorted(set(shared[top]))).lower()
        for name in set(imported(ROOT / folder))
        if (top := name.split(".")[0]) in shared
    }
    assert used <= declared(extras)


def test_the_service_imports_opentelemetry_from_several_distributions() -> None:
    """Guards the test above: without a shared package it would check nothing."""
    names = {name for name in imported(ROOT / "service") if name.startswith("opentelemetry.")}
    candidates = sorted(set(packages_distributions()["opentelemetry"]))
    assert {owner(name, candidates) for name in names} >= {"opentelemetry-api", "opentelemetry-sdk"}
