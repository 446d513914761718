"""Fixtures of the end-to-end tests.

All tests share one cluster and one task service, and restore its state. E2E_CLUSTER=existing uses
the cluster of KUBECONFIG (see tests/cluster/README.md).
"""

import asyncio
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tests.support.e2e.environment import OPERATOR, Environment, running_environment
from tests.support.e2e.installation import Installation
from tests.support.invariants import check_invariants
from tests.support.kube import CommandError

FIRST_TEST_SECONDS = 1800
"""Time limit of the first test, which may have to build binaries and images."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ours = [item for item in items if item.path.is_relative_to(Path(__file__).parent)]
    if ours:
        ours[0].add_marker(pytest.mark.timeout(FIRST_TEST_SECONDS))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Function, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the state of the cluster to the report of a failed test."""
    report = yield
    environment: Any = getattr(item, "funcargs", {}).get("environment")
    if report.failed and isinstance(environment, Environment):
        report.sections.append((f"cluster at the end of {report.when}", describe(environment)))
    return report


def describe(environment: Environment) -> str:
    """Return the pods, TaskServices, recent events and the end of the operator's log."""
    parts = []
    for command in (
        ("get", "taskservices,pods,jobs", "--all-namespaces", "--output=wide"),
        ("get", "events", "--all-namespaces", "--sort-by=.metadata.creationTimestamp"),
        ("logs", f"--selector=app.kubernetes.io/name={OPERATOR}", "--tail=40"),
    ):
        try:
            parts.append("\n".join(environment.kube.of(OPERATOR).run(*command).splitlines()[-80:]))
        except CommandError as error:
            parts.append(str(error))
    return "\n\n".join(parts)


@pytest.fixture(scope="session")
def environment() -> Iterator[Environment]:
    """The running environment."""
    with running_environment() as environment:
        yield environment


@pytest.fixture(scope="session")
def shared(environment: Environment) -> Iterator[Installation]:
    """The TaskService "demo" in the namespace "main", applied once and Ready."""
    installation = Installation.prepare(environment, "main")
    installation.apply()
    installation.until_ready()
    yield installation
    installation.close()


@pytest.fixture
def demo(environment: Environment, shared: Installation) -> Iterator[Installation]:
    """The shared task service with two workers; afterwards its database is checked."""
    shared.until_workers()
    yield shared
    asyncio.run(_check(shared))


async def _check(installation: Installation) -> None:
    connection = await asyncpg.connect(
        installation.environment.reachable(installation.database_url)
    )
    try:
        await check_invariants(connection)
    finally:
        await connection.close()
