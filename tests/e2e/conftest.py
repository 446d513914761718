"""Fixtures of the end-to-end tests: one stage and one shared task service; every test leaves it as it found it."""

import asyncio
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tests.e2e.installation import Installation
from tests.e2e.stage import OPERATOR, Stage, running_stage
from tests.support.cluster import require_cluster
from tests.support.invariants import check_invariants
from tests.support.kube import CommandError

FIRST_TEST_SECONDS = 1800
"""The first test may have to build the cluster's binaries and the images."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ours = [item for item in items if item.path.is_relative_to(Path(__file__).parent)]
    if ours:
        ours[0].add_marker(pytest.mark.timeout(FIRST_TEST_SECONDS))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Function, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add what the cluster looked like to the report of a failed test: it is gone soon after."""
    report = yield
    stage: Any = getattr(item, "funcargs", {}).get("stage")
    if report.failed and isinstance(stage, Stage):
        report.sections.append((f"cluster at the end of {report.when}", look(stage)))
    return report


def look(stage: Stage) -> str:
    """Pods, TaskServices, the last events and what the operator said last."""
    parts = []
    for command in (
        ("get", "taskservices,pods,jobs", "--all-namespaces", "--output=wide"),
        ("get", "events", "--all-namespaces", "--sort-by=.metadata.creationTimestamp"),
        ("logs", f"--selector=app.kubernetes.io/name={OPERATOR}", "--tail=40"),
    ):
        try:
            parts.append("\n".join(stage.kube.of(OPERATOR).run(*command).splitlines()[-80:]))
        except CommandError as error:
            parts.append(str(error))
    return "\n\n".join(parts)


@pytest.fixture(scope="session")
def stage() -> Iterator[Stage]:
    require_cluster()
    with running_stage() as stage:
        yield stage


@pytest.fixture(scope="session")
def shared(stage: Stage) -> Iterator[Installation]:
    """The TaskService "demo" in the namespace "main": applied once, Ready."""
    installation = Installation.prepare(stage, "main")
    installation.apply()
    installation.until_ready()
    yield installation
    installation.close()


@pytest.fixture
def demo(stage: Stage, shared: Installation) -> Iterator[Installation]:
    """The shared task service with both workers at work; afterwards its database must be in order."""
    shared.until_workers()
    yield shared
    asyncio.run(_check(shared))


async def _check(installation: Installation) -> None:
    connection = await asyncpg.connect(installation.stage.reachable(installation.database_url))
    try:
        await check_invariants(connection)
    finally:
        await connection.close()
