"""All services have the calling convention that the docstring of `task_service.services` describes."""

import inspect
import pkgutil
from collections.abc import Callable, Iterator
from importlib import import_module
from inspect import Parameter
from types import ModuleType
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from task_service import services
from task_service.domain.principals import Principal
from task_service.services.transactions import Transaction, TransactionManager

OTHER_DATABASES = "task_service.services.importing"
"""`task-service import` writes over its own connections, not in transactions of the API."""
FIRST = {
    "transaction": Transaction,
    "connection": AsyncConnection,
    "transactions": TransactionManager,
}
HANDLES = {*FIRST.values()}


def service_modules() -> Iterator[ModuleType]:
    for info in pkgutil.walk_packages(services.__path__, f"{services.__name__}."):
        if not info.name.startswith(OTHER_DATABASES):
            yield import_module(info.name)


def public_services() -> list[Callable[..., Any]]:
    """Functions that use the database: coroutines, and generators of coroutines' results."""
    return [
        function
        for module in service_modules()
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if function.__module__ == module.__name__
        and not name.startswith("_")
        and (
            inspect.iscoroutinefunction(function)
            or inspect.isasyncgenfunction(function)
            or HANDLES & {p.annotation for p in inspect.signature(function).parameters.values()}
        )
    ]


def check(function: Callable[..., Any]) -> None:
    """Assert that a service follows the convention."""
    parameters = list(inspect.signature(function).parameters.values())
    kinds = [p.annotation for p in parameters]
    name = f"{function.__module__}.{function.__name__}"
    first = parameters[0] if parameters else None
    assert first is not None, f"{name} takes no transaction"
    assert FIRST.get(first.name) is first.annotation, f"{name} begins with {first}"
    handles = [p.name for p in parameters[1:] if p.annotation in {Transaction, TransactionManager}]
    assert not handles, f"{name} takes a second handle: {handles}"
    if first.annotation is AsyncConnection:
        assert function.__name__.startswith("read_"), f"{name} must take a Transaction to write"
    if Principal in kinds:
        assert parameters[kinds.index(Principal)].name == "caller", f"{name}: rename the caller"
        assert first.annotation is not AsyncConnection, f"{name} must take a Transaction to write"
        after = [
            p for p in parameters[kinds.index(Principal) + 1 :] if p.default is Parameter.empty
        ]
        positional = [p.name for p in after if p.kind is not Parameter.KEYWORD_ONLY]
        assert not positional, f"{name}: {positional} must come before the caller"


@pytest.mark.parametrize(
    "function", public_services(), ids=lambda f: f"{f.__module__}.{f.__name__}"
)
def test_service_follows_the_calling_convention(function: Callable[..., Any]) -> None:
    check(function)


async def no_transaction() -> None: ...
async def other_name(t: Transaction) -> None: ...
async def two_handles(transaction: Transaction, transactions: TransactionManager) -> None: ...
async def write_setting(connection: AsyncConnection, key: str) -> None: ...
async def read_own(connection: AsyncConnection, caller: Principal) -> None: ...
async def input_last(transaction: Transaction, caller: Principal, key: str) -> None: ...
async def other_caller(transaction: Transaction, who: Principal) -> None: ...


@pytest.mark.parametrize(
    "function",
    [
        no_transaction,
        other_name,
        two_handles,
        write_setting,
        read_own,
        input_last,
        other_caller,
    ],
    ids=lambda f: f.__name__,
)
def test_deviation_from_the_convention_fails_the_check(function: Callable[..., Any]) -> None:
    with pytest.raises(AssertionError):
        check(function)
