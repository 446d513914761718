"""One suite for each of the services A to E, and one for the canonical API: black-box tests over HTTP.

By default they start products of their own. They can be pointed at any other, where they leave some tasks behind:

    pytest tests/conformance --url https://tasks.example --admin admin:password --root c

`--root` says what ROOT_COMPATIBILITY is there.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import httpx
import pytest

from tests.conformance.product import Product, Workshop

AT_ROOT = {"a": "d", "b": "e", "c": "c", "d": "d", "e": "e"}
"""The ROOT_COMPATIBILITY of the product on which a service's suite runs at the root."""
ELSEWHERE = {"a": "c", "b": "d", "c": "d", "d": "e", "e": "c"}
"""The one on which it runs under /compat/…: one where `/tasks` at the root is not its own."""


@dataclass(frozen=True)
class Place:
    """Where a service's paths are."""

    product: Product
    prefix: str

    def client(self, role: str | None = "admin") -> httpx.Client:
        """A client with a token of this role; None: without one."""
        return self.product.client(self.prefix, role)


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of the conformance suites."""
    group = parser.getgroup("conformance", "conformance suites")
    group.addoption("--url", help="Address of a running product; none: start some.")
    group.addoption("--admin", default="admin:admin", help="Its administrator, as user:password.")
    group.addoption("--root", default="c", choices=["c", "d", "e"], help="Its ROOT_COMPATIBILITY.")


@pytest.fixture(scope="session")
def workshop(request: pytest.FixtureRequest) -> Iterator[Workshop]:
    """Where products of our own are made."""
    if request.config.getoption("--url"):
        pytest.skip("this needs a product with settings of its own")
    workshop = Workshop()
    try:
        yield workshop
    finally:
        workshop.close()


@pytest.fixture(scope="session")
def product_of(request: pytest.FixtureRequest) -> Callable[[str], Product]:
    """The product with a ROOT_COMPATIBILITY, started when it is first asked for."""
    started: dict[str, Product] = {}
    url = request.config.getoption("--url")

    def product(root: str) -> Product:
        if url:
            name, _, password = request.config.getoption("--admin").partition(":")
            there = request.config.getoption("--root")
            if root != there:
                pytest.skip(f"ROOT_COMPATIBILITY is {there} at {url}")
            started.setdefault(root, Product(url.rstrip("/"), (name, password), there))
        elif root not in started:
            started[root] = request.getfixturevalue("workshop").start(root)
        return started[root]

    return product


@pytest.fixture(scope="session")
def product(request: pytest.FixtureRequest, product_of: Callable[[str], Product]) -> Product:
    """A product with any ROOT_COMPATIBILITY."""
    return product_of(request.config.getoption("--root"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run the tests of `test_service_X.py` at each place of that service."""
    _, _, service = metafunc.module.__name__.partition("test_service_")
    if service and "place" in metafunc.fixturenames:
        places = [(AT_ROOT[service], ""), (ELSEWHERE[service], f"/compat/{service}")]
        metafunc.parametrize("place", places, ids=["at the root", places[1][1]], indirect=True, scope="module")


@pytest.fixture(scope="module")
def place(request: pytest.FixtureRequest, product_of: Callable[[str], Product]) -> Place:
    """One of the service's places. Only `/tasks` at the root asks for a product with a certain ROOT_COMPATIBILITY."""
    root, prefix = request.param
    if request.config.getoption("--url") and (prefix or request.module.__name__[-1] in "ab"):
        root = request.config.getoption("--root")
    return Place(product_of(root), prefix)


@pytest.fixture(scope="module")
def client(place: Place) -> Iterator[httpx.Client]:
    """A client of the service's paths, with an administrator's token."""
    with place.client() as client:
        yield client


@pytest.fixture(scope="module")
def canonical(place: Place) -> Iterator[httpx.Client]:
    """A client of the canonical API of the same product."""
    with place.product.client("/api/v1") as client:
        yield client
