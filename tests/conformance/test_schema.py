"""Requests made from the OpenAPI document itself, valid and not: every answer is one that the document tells of.

Left out: the copies of paths that are at the root too, streams without an end, and ending the log-in that the test uses.
SCHEMA_EXAMPLES says how many requests are tried of each kind and operation.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.config import SchemathesisConfig
from schemathesis.openapi import checks as openapi_checks  # noqa: F401 - registers the checks

from tests.conformance.product import Product, Workshop

EXAMPLES = int(os.environ.get("SCHEMA_EXAMPLES", "4"))
CONFIG = {
    "seed": 1,
    "checks": {
        # Rules that a JSON schema cannot say: a due date lies in the future, a cron expression has a next time …
        "positive_data_acceptance": {"expected-statuses": ["2xx", "3xx", "4xx", "503"]},
    },
    "phases": {"coverage": {"enabled": os.environ.get("SCHEMA_COVERAGE", "") == "1"}},
}
LEFT_OUT = r"^/compat/[abd]/|/events$|/auth/logout$|/auth/password$"


@dataclass(frozen=True)
class Target:
    """A product and the headers that let a request in."""

    product: Product
    headers: dict[str, str]
    is_open: bool


@pytest.fixture(scope="module", params=["required", "open"])
def target(request: pytest.FixtureRequest, workshop: Workshop) -> Target:
    """A product in each AUTH_MODE, its root D's."""
    product = workshop.start("d", AUTH_MODE=request.param, RATE_LIMIT_LOGIN="100000/minute")
    return Target(product, {"Authorization": f"Bearer {product.token('admin')}"}, request.param == "open")


@pytest.fixture(scope="module")
def api(target: Target) -> Iterator[schemathesis.BaseSchema]:
    """The document of that product."""
    document = schemathesis.openapi.from_url(
        f"{target.product.url}/openapi.json", config=SchemathesisConfig.from_dict(CONFIG)
    )
    yield document.exclude(path_regex=LEFT_OUT)


operations = schemathesis.pytest.from_fixture("api")


@operations.parametrize()
@settings(
    max_examples=EXAMPLES, deadline=None, derandomize=True, database=None, phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
def test_every_answer_is_a_documented_one(case: schemathesis.Case, target: Target) -> None:
    excluded = [schemathesis.checks.ignored_auth] if target.is_open else []
    case.call_and_validate(headers=target.headers, excluded_checks=excluded, timeout=30)
