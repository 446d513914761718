"""Requests generated from the OpenAPI document, valid and invalid: every response is documented.

SCHEMA_EXAMPLES sets the number of examples per operation. From 20 on, every phase runs, which takes
minutes: edge cases of every field, sequences of calls, and the paths that are also at the root.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.conformance.deployments import Deployment, DeploymentFactory

EXAMPLES = int(os.environ.get("SCHEMA_EXAMPLES", "2"))
IS_THOROUGH = EXAMPLES >= 20
PHASES = "examples,coverage,fuzzing,stateful" if IS_THOROUGH else "examples,fuzzing"
COPIES = "" if IS_THOROUGH else "|^/compat/[abd]/"
EXCLUDED = f"/events$|/auth/logout$|/auth/password${COPIES}"
"""Endless streams, and operations that end the session of the test."""
BODIES: list[dict[str, Any]] = [
    {"json": {}},
    {"content": "{"},
    {"files": {"file": b"title\n"}},
    {},
]
CONFIG = Path(__file__).with_name("schemathesis.toml")
PROGRAM = Path(sys.executable).with_name("schemathesis")
PUBLIC = {"/health", "/compat/c/health"}
PROBLEM = {"type", "title", "status", "code", "detail", "request_id", "error"}
LOG_IN = {
    "/login",
    "/token",
    "/compat/d/login",
    "/compat/d/token",
    "/api/v1/auth/token",
    "/api/v1/auth/refresh",
}


@pytest.fixture(scope="module")
def strict_deployment(deployments: DeploymentFactory) -> Deployment:
    """A deployment with tokens and ROOT_COMPATIBILITY=d, separate because the tests change it."""
    return deployments.start("d")


def run_schemathesis(deployment: Deployment, folder: Path, *options: str) -> None:
    """Test every operation of the OpenAPI document with all checks."""
    argv: list[str | Path] = [
        PROGRAM, "--config-file", CONFIG, "run", f"{deployment.url}/openapi.json", "--checks", "all", "--phases", PHASES,
        "--max-examples", str(EXAMPLES), "--exclude-path-regex", EXCLUDED, "--no-shrink", "--continue-on-failure",
        "--warnings", "off", "--request-timeout", "30", *options,
    ]  # fmt: skip
    done = subprocess.run(
        argv, check=False, cwd=folder, capture_output=True, text=True, timeout=1_800
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_response_to_an_administrator_is_documented(
    strict_deployment: Deployment, tmp_path: Path
) -> None:
    run_schemathesis(
        strict_deployment,
        tmp_path,
        "-H",
        f"Authorization: Bearer {strict_deployment.token('admin')}",
    )


def test_every_response_is_documented_where_access_is_open(
    open_deployment: Deployment, tmp_path: Path
) -> None:
    run_schemathesis(open_deployment, tmp_path)


def test_operations_without_a_token_return_only_a_401(
    strict_deployment: Deployment,
) -> None:
    with strict_deployment.client(role=None) as nobody:
        document = nobody.get("/openapi.json").json()
        seen = 0
        for path, operations in document["paths"].items():
            for method in operations:
                url = path.replace("{", "").replace("}", "")
                for body in BODIES:
                    response = nobody.request(method, url, **body)
                    if path in PUBLIC:
                        assert response.status_code == 200
                    elif path in LOG_IN:
                        assert response.status_code in (400, 401, 415, 422), (path, response.text)
                    else:
                        assert response.status_code == 401, (method, path, response.text)
                        assert response.headers["www-authenticate"].startswith("Bearer")
                        assert set(response.json()) <= {
                            "type",
                            "title",
                            "status",
                            "code",
                            "detail",
                            "request_id",
                            "error",
                        }
                        seen += 1
        assert seen > 400


@pytest.mark.parametrize(
    "header", ["Bearer x", "Bearer", "Basic YWRtaW46YWRtaW4=", "Bearer eyJhbGciOiJub25lIn0.e30."]
)
def test_invalid_token_is_rejected_on_every_path(
    strict_deployment: Deployment, header: str
) -> None:
    paths = httpx.get(f"{strict_deployment.url}/openapi.json").json()["paths"]
    with strict_deployment.client(role=None) as nobody:
        for path, operations in paths.items():
            if path in PUBLIC | LOG_IN:
                continue
            for method in operations:
                url = path.replace("{", "").replace("}", "")
                response = nobody.request(method, url, headers={"Authorization": header})
                assert response.status_code == 401, (method, path, response.text)
