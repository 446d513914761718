"""One rule for tests that need something this machine does not have."""

import os
from typing import NoReturn

import pytest


def skip_or_fail(reason: str) -> NoReturn:
    """Skip the test with this reason, or fail it when REQUIRE_CLUSTER=1."""
    if os.environ.get("REQUIRE_CLUSTER") == "1":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)
