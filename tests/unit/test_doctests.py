"""The examples in docstrings are true."""

import doctest
import importlib
import pkgutil
from collections.abc import Iterator

import pytest

import task_operator
import task_service

NOT_IMPORTABLE = ("task_service.migrations.env", "task_service.migrations.versions", "__main__")


def modules() -> Iterator[str]:
    for package in (task_service, task_operator):
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not found.name.startswith(NOT_IMPORTABLE) and not found.name.endswith("__main__"):
                yield found.name


@pytest.mark.parametrize("name", list(modules()))
def test_the_examples_of_a_module_hold(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0


def test_there_are_examples() -> None:
    finder = doctest.DocTestFinder(exclude_empty=True)
    assert (
        sum(len(t.examples) for n in modules() for t in finder.find(importlib.import_module(n)))
        > 30
    )
