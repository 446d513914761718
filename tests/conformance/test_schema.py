"""Requests made from the OpenAPI document itself, valid and not: every answer is one that the document tells of.

SCHEMA_EXAMPLES says how many are tried of each operation. From 20 on nothing is left out that can be tried, which takes
minutes: edges of every field, calls that follow each other, and the copies of paths that are at the root too.
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
LEFT_OUT = f"/events$|/auth/logout$|/auth/password${COPIES}"
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
    """A product that asks for tokens, its root D's; other suites have others, which it would change."""
    return deployments.start("d")


def run_schemathesis(deployment: Deployment, folder: Path, *options: str) -> None:
    """Try every operation of a product's document with all checks; pytest shows what was found."""
    argv: list[str | Path] = [
        PROGRAM, "--config-file", CONFIG, "run", f"{deployment.url}/openapi.json", "--checks", "all", "--phases", PHASES,
        "--max-examples", str(EXAMPLES), "--exclude-path-regex", LEFT_OUT, "--no-shrink", "--continue-on-failure",
        "--warnings", "off", "--request-timeout", "30", *options,
    ]  # fmt: skip
    done = subprocess.run(
        argv, check=False, cwd=folder, capture_output=True, text=True, timeout=1_800
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_answer_to_an_administrator_is_a_documented_one(
    strict_deployment: Deployment, tmp_path: Path
) -> None:
    run_schemathesis(
        strict_deployment,
        tmp_path,
        "-H",
        f"Authorization: Bearer {strict_deployment.token('admin')}",
    )


def test_every_answer_to_anybody_is_a_documented_one_where_access_is_open(
    open_deployment: Deployment, tmp_path: Path
) -> None:
    run_schemathesis(open_deployment, tmp_path)


def test_without_a_token_every_operation_says_only_that_it_takes_one(
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
def test_a_wrong_token_is_refused_everywhere(strict_deployment: Deployment, header: str) -> None:
    paths = httpx.get(f"{strict_deployment.url}/openapi.json").json()["paths"]
    with strict_deployment.client(role=None) as nobody:
        for path, operations in paths.items():
            if path in PUBLIC | LOG_IN:
                continue
            for method in operations:
                url = path.replace("{", "").replace("}", "")
                response = nobody.request(method, url, headers={"Authorization": header})
                assert response.status_code == 401, (method, path, response.text)
