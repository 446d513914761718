"""One suite for each of the services A to E and one for the canonical API, black-box over HTTP.

By default the suites start their own deployments. They can also run against another deployment,
where they leave some tasks behind:

    pytest tests/conformance --url https://tasks.example --admin admin:password --root c

`--root` is the ROOT_COMPATIBILITY of that deployment. `--without-redis` and `--with-pooler` apply
only to deployments that the suites start.
"""

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.support.conformance.deployments import ROOTS, Deployment, DeploymentFactory, Mount

DEFAULTS = {"--root": "c", "--admin": "admin:admin"}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of the conformance suites."""
    group = parser.getgroup("conformance", "conformance suites")
    group.addoption("--url", help="URL of a running deployment. Without it, the suites start some.")
    group.addoption(
        "--admin", default=DEFAULTS["--admin"], help="Its administrator: user:password."
    )
    group.addoption(
        "--root", default=DEFAULTS["--root"], choices=ROOTS, help="Its ROOT_COMPATIBILITY."
    )
    group.addoption("--without-redis", action="store_true", help="Start deployments without Redis.")
    group.addoption(
        "--with-pooler",
        action="store_true",
        help="Start deployments behind PgBouncer in transaction mode.",
    )


def option(config: pytest.Config, name: str) -> Any:
    """Return an option, or its default if pytest read this file after the command line."""
    return config.getoption(name, default=DEFAULTS.get(name))


@pytest.fixture(scope="session")
def deployments(request: pytest.FixtureRequest) -> Iterator[DeploymentFactory]:
    """Starts deployments with settings that a test chooses."""
    if option(request.config, "--url"):
        pytest.skip("this test starts its own deployment")
    factory = DeploymentFactory(
        with_redis=not option(request.config, "--without-redis"),
        with_pooler=option(request.config, "--with-pooler"),
    )
    try:
        yield factory
    finally:
        factory.close()


@pytest.fixture(scope="session")
def deployment_for(request: pytest.FixtureRequest) -> Callable[[str], Deployment]:
    """Function that returns the deployment with a ROOT_COMPATIBILITY; starts it on first use."""
    started: dict[str, Deployment] = {}
    url = option(request.config, "--url")

    def deployment(root: str) -> Deployment:
        if url:
            name, _, password = option(request.config, "--admin").partition(":")
            actual_root = option(request.config, "--root")
            if root != actual_root:
                pytest.skip(f"ROOT_COMPATIBILITY is {actual_root} at {url}")
            started.setdefault(root, Deployment(url.rstrip("/"), (name, password), actual_root))
        elif root not in started:
            started[root] = request.getfixturevalue("deployments").start(root)
        return started[root]

    return deployment


@pytest.fixture(scope="session")
def deployment(
    request: pytest.FixtureRequest, deployment_for: Callable[[str], Deployment]
) -> Deployment:
    """A deployment with any ROOT_COMPATIBILITY."""
    return deployment_for(option(request.config, "--root"))


@pytest.fixture(scope="session")
def open_deployment(deployments: DeploymentFactory) -> Deployment:
    """A deployment that requires no token, with ROOT_COMPATIBILITY=d."""
    return deployments.start("d", AUTH_MODE="open")


def mounts_of(service: str) -> list[tuple[str, str]]:
    """Return the mounts that a suite tests, as ROOT_COMPATIBILITY and path prefix.

    C, D and E are tested at the root where ROOT_COMPATIBILITY names them, and under their prefix
    on the deployment of each root. A and B, which are at every root, are tested on one.
    """
    at_root = service if service in ROOTS else "c"
    prefixed_at = ROOTS if service in ROOTS else ("d",)
    return [(at_root, ""), *((root, f"/compat/{service}") for root in prefixed_at)]


def service_of(module_name: str) -> str | None:
    """Return the service whose suite this module belongs to.

    >>> service_of("tests.conformance.test_service_d_tasks")
    'd'
    """
    _, _, rest = module_name.partition("test_service_")
    return rest[:1] or None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run the tests of `test_service_X*.py` at each mount of that service."""
    service = service_of(metafunc.module.__name__)
    if service and "mount" in metafunc.fixturenames:
        mounts = mounts_of(service)
        ids = [f"{prefix or 'at the root'}, root {root}" for root, prefix in mounts]
        metafunc.parametrize("mount", mounts, ids=ids, indirect=True, scope="module")


@pytest.fixture(scope="module")
def mount(request: pytest.FixtureRequest, deployment_for: Callable[[str], Deployment]) -> Mount:
    """One mount of the service.

    A and B are at every root, so with `--url` they accept the root of that deployment.
    """
    root, prefix = request.param
    if option(request.config, "--url") and service_of(request.module.__name__) in ("a", "b"):
        root = option(request.config, "--root")
    return Mount(deployment_for(root), prefix)


@pytest.fixture(scope="module")
def client(mount: Mount) -> Iterator[httpx.Client]:
    """Client of the service's paths, with an administrator's token."""
    with mount.client() as client:
        yield client


@pytest.fixture(scope="module")
def canonical(mount: Mount) -> Iterator[httpx.Client]:
    """Client of the canonical API of the same deployment."""
    with mount.deployment.client("/api/v1") as client:
        yield client
