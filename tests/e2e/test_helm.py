"""The chart of the service without the operator: install, upgrade, test, uninstall."""

import secrets

import httpx

from tests.support.e2e.environment import (
    POSTGRESQL_IMAGE,
    ROOT,
    SERVICE_IMAGE,
    VALKEY_IMAGE,
    Environment,
)
from tests.support.e2e.installation import Installation
from tests.support.kube import poll

CHART = ROOT / "charts/task-service"
ADMIN = {"username": "admin", "password": "correct-horse-battery"}
TOKENS_REQUIRED = (
    "auth.mode=required",
    "secret.create=true",
    f"secret.secretKey={secrets.token_hex(32)}",
    f"secret.adminUsername={ADMIN['username']}",
    f"secret.adminPassword={ADMIN['password']}",
)
BUNDLED = [f"postgresql.image={POSTGRESQL_IMAGE}", f"valkey.image={VALKEY_IMAGE}"]


def log_in(installation: Installation) -> None:
    """Log in as the first administrator and send the token with later requests."""
    response = installation.http.post("/api/v1/auth/token", data={"grant_type": "password"} | ADMIN)
    assert response.status_code == httpx.codes.OK, response.text
    installation.http.headers["Authorization"] = f"Bearer {response.json()['access_token']}"


def test_chart_installs_upgrades_and_uninstalls_without_the_operator(
    environment: Environment,
) -> None:
    kube = environment.namespace("helm")
    values = [f"--values={CHART / 'values-dev.yaml'}"] + [f"--set={item}" for item in BUNDLED]
    values += [f"--set=image.repository={SERVICE_IMAGE}", "--set=api.replicas=1,worker.replicas=1"]

    def release(command: str, tag: str, *more: str) -> None:
        flags = [*values, f"--set-string=image.tag={tag}", *(f"--set={item}" for item in more)]
        kube.helm(command, "plain", CHART, *flags, "--wait", "--timeout=120s")

    release("install", "1")
    kube.helm("test", "plain", "--logs", "--timeout=60s")
    release("upgrade", "2", *TOKENS_REQUIRED)
    installation = Installation(environment, kube, "plain", "")

    def requires_a_token() -> bool:
        return installation.http.get("/api/v1/tasks").status_code == httpx.codes.UNAUTHORIZED

    poll("the end of the old pod", requires_a_token)
    log_in(installation)
    (task,) = installation.create(1, "noop")
    poll(
        "the completion of the task",
        lambda: installation.http.get(f"/api/v1/tasks/{task}").json()["status"] == "completed",
    )
    images = {pod["spec"]["containers"][0]["image"] for pod in installation.worker_pods()}
    assert images == {f"{SERVICE_IMAGE}:2"}
    kube.helm("test", "plain", "--logs", "--timeout=60s")
    kube.helm("uninstall", "plain", "--wait", "--timeout=120s")
    poll(
        "the end of all objects of the release",
        lambda: not kube.list("deployments,services,statefulsets,jobs,secrets"),
    )
    kube.run("delete", "namespace", "helm", "--wait=false")
    installation.close()
