"""What a real API server says: it takes the CRD, the samples and every golden manifest, and refuses
what is wrong.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.bad_specs import BAD, Bad
from tests.support.helm import GOLDEN, MINIMAL, REPOSITORY, Helm, by_name
from tests.support.kube import CommandError, Kube
from tests.support.kube_schemas import FOLDER, kubernetes_schemas

DRY_RUN = ("apply", "--dry-run=server", "--warnings-as-errors", "--filename")
SAMPLES = sorted((REPOSITORY / "k8s/samples").glob("*.yaml"))
OVERLAYS = sorted((REPOSITORY / "k8s/overlays").iterdir())


def taskservice(spec: dict[str, Any], name: str = "demo") -> str:
    meta = {
        "apiVersion": "taskservice.dev/v1alpha1",
        "kind": "TaskService",
        "metadata": {"name": name},
    }
    return json.dumps(meta | {"spec": spec})


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.name)
def test_a_bad_spec_is_refused_and_the_field_named(api_server: Kube, bad: Bad) -> None:
    with pytest.raises(CommandError) as refusal:
        api_server.run(*DRY_RUN, "-", input=taskservice(bad.spec))
    for word in bad.words:
        assert word in str(refusal.value)


@pytest.mark.parametrize("name", ["a" * 41, "9tasks", "a.b"])
def test_a_name_that_children_cannot_have_is_refused(api_server: Kube, name: str) -> None:
    with pytest.raises(CommandError, match=r"metadata\.name must"):
        api_server.run(*DRY_RUN, "-", input=taskservice(MINIMAL, name))


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_a_sample_applies(api_server: Kube, path: Path) -> None:
    assert "created" in api_server.run(*DRY_RUN, path)


@pytest.mark.parametrize("path", OVERLAYS, ids=lambda path: path.name)
def test_an_overlay_applies(api_server: Kube, helm: Helm, path: Path) -> None:
    built = helm.kustomize(path)
    namespace = next(m for m in by_name(built).values() if m["kind"] == "Namespace")
    api_server.apply(namespace)
    service = next(m for m in by_name(built).values() if m["kind"] == "TaskService")
    assert service["metadata"]["namespace"] == namespace["metadata"]["name"]
    assert "created" in api_server.of(namespace["metadata"]["name"]).run(
        *DRY_RUN, "-", input=json.dumps(service)
    )


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.yaml")), ids=lambda path: path.stem)
def test_golden_manifests_apply_under_restricted_pod_security(api_server: Kube, path: Path) -> None:
    api_server.apply(
        by_name(path.read_text())["ServiceAccount/demo"]
    )  # a pod on trial needs it to be there
    api_server.run(
        "apply", "--dry-run=server", "--server-side", "--warnings-as-errors", "--filename", path
    )


def test_pod_security_would_warn_of_a_privileged_deployment(
    api_server: Kube, tmp_path: Path
) -> None:
    manifest = by_name((GOLDEN / "minimal.yaml").read_text())["Deployment/demo-worker"]
    manifest["spec"]["template"]["spec"]["containers"][0]["securityContext"][
        "allowPrivilegeEscalation"
    ] = True
    (tmp_path / "worker.json").write_text(json.dumps(manifest))
    with pytest.raises(CommandError, match="allowPrivilegeEscalation"):
        api_server.run(
            "apply",
            "--dry-run=server",
            "--server-side",
            "--warnings-as-errors",
            "-f",
            tmp_path / "worker.json",
        )


def test_the_scale_subresource_works_on_the_smallest_spec(api_server: Kube) -> None:
    api_server.run("create", "--filename", "-", input=taskservice(MINIMAL, "scaled"))
    try:
        api_server.run("scale", "taskservice/scaled", "--replicas=4", "--current-replicas=1")
        assert api_server.get("taskservice", "scaled")["spec"]["worker"] == {"replicas": 4}
        with pytest.raises(CommandError, match="replicas"):
            api_server.run("scale", "taskservice/scaled", "--replicas=-1")
    finally:
        api_server.delete("taskservice", "scaled")


def test_get_shows_the_columns_and_all_lists_it(api_server: Kube) -> None:
    api_server.run("create", "--filename", "-", input=taskservice(MINIMAL, "shown"))
    try:
        status = {
            "version": "1",
            "conditions": [],
            "queue": {"ready": 7},
            "api": {"ready": 2},
            "worker": {"ready": 3},
        }
        api_server.patch("ts", "shown", {"status": status}, "--subresource=status")
        header, line = api_server.run("get", "ts", "shown").splitlines()
        assert header.split() == [
            "NAME",
            "READY",
            "REASON",
            "VERSION",
            "API",
            "WORKERS",
            "QUEUED",
            "AGE",
        ]
        assert line.split()[:5] == ["shown", "1", "2", "3", "7"]
        assert "taskservice.taskservice.dev/shown" in api_server.run("get", "all", "--output=name")
    finally:
        api_server.delete("taskservice", "shown")


@pytest.mark.parametrize(
    "field", ["spec.worker.concurrency", "spec.database.secretRef.key", "status.lastRescue.reason"]
)
def test_explain_documents_a_field(api_server: Kube, field: str) -> None:
    text = api_server.run("explain", f"taskservice.{field}")
    assert "<no description>" not in text
    assert "DESCRIPTION:" in text


def test_the_schemas_of_kubeconform_are_those_of_the_api_server(
    api_server: Kube, *, update_golden: bool
) -> None:
    files = kubernetes_schemas(json.loads(api_server.run("get", "--raw", "/openapi/v2")))
    if update_golden:
        for name, text in files.items():
            (FOLDER / name).write_text(text)
    assert files == {path.name: path.read_text() for path in FOLDER.iterdir()}


def test_the_crd_of_the_chart_is_the_crd(api_server: Kube) -> None:
    template = (REPOSITORY / "charts/task-operator/templates/crd.yaml").read_text()
    kept = yaml.safe_load(
        "\n".join(line for line in template.splitlines() if not line.startswith("{{"))
    )
    assert kept["metadata"].pop("annotations") == {"helm.sh/resource-policy": "keep"}
    assert kept == yaml.safe_load((REPOSITORY / "k8s/crd.yaml").read_text())
    assert api_server.get("crd", kept["metadata"]["name"])["spec"]["group"] == "taskservice.dev"
