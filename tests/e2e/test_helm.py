"""The workload's chart does its job without the operator: install, upgrade, test, uninstall."""

import secrets

import httpx

from tests.e2e.installation import Installation
from tests.e2e.stage import ROOT, Stage
from tests.support.images import SERVICE
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
BUNDLED = ["postgresql.image=localhost/postgres:17", "valkey.image=localhost/valkey:8"]


def log_in(installation: Installation) -> None:
    """Send the first administrator's token from now on."""
    answer = installation.http.post("/api/v1/auth/token", data={"grant_type": "password"} | ADMIN)
    assert answer.status_code == httpx.codes.OK, answer.text
    installation.http.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"


def test_the_chart_installs_upgrades_to_required_tokens_and_tests_itself_without_the_operator(
    stage: Stage,
) -> None:
    kube = stage.namespace("helm")
    values = [f"--values={CHART / 'values-dev.yaml'}"] + [f"--set={item}" for item in BUNDLED]
    values += [f"--set=image.repository={SERVICE}", "--set=api.replicas=1,worker.replicas=1"]

    def release(command: str, tag: str, *more: str) -> None:
        given = [*values, f"--set-string=image.tag={tag}", *(f"--set={item}" for item in more)]
        kube.helm(command, "plain", CHART, *given, "--wait", "--timeout=120s")

    release("install", "1")
    kube.helm("test", "plain", "--logs", "--timeout=60s")
    release("upgrade", "2", *TOKENS_REQUIRED)
    installation = Installation(stage, kube, "plain", "")

    def asks_for_a_token() -> bool:
        return installation.http.get("/api/v1/tasks").status_code == httpx.codes.UNAUTHORIZED

    poll("the old pod, which is open, serves no more", asks_for_a_token)
    log_in(installation)
    (task,) = installation.create(1, "noop")
    poll(
        "it runs",
        lambda: installation.http.get(f"/api/v1/tasks/{task}").json()["status"] == "completed",
    )
    images = {pod["spec"]["containers"][0]["image"] for pod in installation.worker_pods()}
    assert images == {f"{SERVICE}:2"}
    kube.helm("test", "plain", "--logs", "--timeout=60s")
    kube.helm("uninstall", "plain", "--wait", "--timeout=120s")
    poll(
        "nothing of the release is left",
        lambda: not kube.list("deployments,services,statefulsets,jobs,secrets"),
    )
    kube.run("delete", "namespace", "helm", "--wait=false")
    installation.close()
