"""Doctests of the product's modules."""

import doctest
import importlib
import pkgutil
from collections.abc import Iterator

import pytest

import task_operator
import task_service

NOT_IMPORTABLE = ("task_service.migrations.env", "task_service.migrations.versions", "__main__")


def find_modules() -> Iterator[str]:
    for package in (task_service, task_operator):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.startswith(NOT_IMPORTABLE) and not module.name.endswith("__main__"):
                yield module.name


MODULES = list(find_modules())


@pytest.mark.parametrize("name", MODULES)
def test_examples_of_a_module_pass(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0


def test_there_are_examples() -> None:
    finder = doctest.DocTestFinder(exclude_empty=True)
    tests = [test for name in MODULES for test in finder.find(importlib.import_module(name))]
    assert sum(len(test.examples) for test in tests) > 30
