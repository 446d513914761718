"""One suite for each of the services A to E, and one for the canonical API: black-box tests over HTTP.

By default they start products of their own. They can be pointed at any other, where they leave some tasks behind:

    pytest tests/conformance --url https://tasks.example --admin admin:password --root c

`--root` says what ROOT_COMPATIBILITY is there. `--without-redis` and `--with-pooler` are for products of their own.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from tests.conformance.product import Product, Workshop

ROOTS = ("c", "d", "e")
"""The services that `/tasks` at the root may mean."""


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
    group.addoption("--root", default="c", choices=ROOTS, help="Its ROOT_COMPATIBILITY.")
    group.addoption("--without-redis", action="store_true", help="Start products without Redis.")
    group.addoption(
        "--with-pooler",
        action="store_true",
        help="Start products behind PgBouncer in transaction mode.",
    )


def option(config: pytest.Config, name: str) -> Any:
    """The value of an option; its default where pytest had not read this file before the command line."""
    return config.getoption(name, default={"--root": "c", "--admin": "admin:admin"}.get(name))


@pytest.fixture(scope="session")
def workshop(request: pytest.FixtureRequest) -> Iterator[Workshop]:
    """Where products of our own are made."""
    if option(request.config, "--url"):
        pytest.skip("this needs a product with settings of its own")
    workshop = Workshop(
        with_redis=not option(request.config, "--without-redis"),
        with_pooler=option(request.config, "--with-pooler"),
    )
    try:
        yield workshop
    finally:
        workshop.close()


@pytest.fixture(scope="session")
def product_of(request: pytest.FixtureRequest) -> Callable[[str], Product]:
    """The product with a ROOT_COMPATIBILITY, started when it is first asked for."""
    started: dict[str, Product] = {}
    url = option(request.config, "--url")

    def product(root: str) -> Product:
        if url:
            name, _, password = option(request.config, "--admin").partition(":")
            there = option(request.config, "--root")
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
    return product_of(option(request.config, "--root"))


@pytest.fixture(scope="session")
def open_product(workshop: Workshop) -> Product:
    """A product that asks for no token, its root D's."""
    return workshop.start("d", AUTH_MODE="open")


def places_of(service: str) -> list[tuple[str, str]]:
    """Where a service's suite runs: ROOT_COMPATIBILITY and the prefix of its paths there.

    C, D and E run at the root where it is theirs, and under their prefix on the product of each root; A and B, which
    are at every root, on one.
    """
    at_root = service if service in ROOTS else "c"
    return [
        (at_root, ""),
        *((root, f"/compat/{service}") for root in (ROOTS if service in ROOTS else ("d",))),
    ]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run the tests of `test_service_X.py` at each place of that service."""
    _, _, service = metafunc.module.__name__.partition("test_service_")
    if service and "place" in metafunc.fixturenames:
        places = places_of(service)
        ids = [f"{prefix or 'at the root'}, root {root}" for root, prefix in places]
        metafunc.parametrize("place", places, ids=ids, indirect=True, scope="module")


@pytest.fixture(scope="module")
def place(request: pytest.FixtureRequest, product_of: Callable[[str], Product]) -> Place:
    """One of the service's places. Only `/tasks` at the root asks for a product with a certain ROOT_COMPATIBILITY."""
    root, prefix = request.param
    if option(request.config, "--url") and request.module.__name__[-1] in "ab":
        root = option(request.config, "--root")
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
