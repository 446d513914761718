"""What becomes of rendered manifests, what is refused, and that the lists of kinds agree."""

import copy
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from task_operator.kube.kinds import KINDS
from task_operator.render import (
    Desired,
    Renderer,
    RenderError,
    adopt,
    desired_objects,
    operator_values,
)
from tests.cluster.binaries import bin_dir
from tests.support.kube_objects import deployment, task_service
from tests.support.operator_environment import ROOT
from tests.support.skipping import skip_or_fail

Object = dict[str, Any]
ISSUERS: list[Object] = [
    {
        "issuer": "https://i",
        "audience": "a",
        "subject": "s",
        "role": "operator",
        "jwks": {"keys": []},
    }
]
EVERYTHING: Object = {
    "image": {"repository": "registry/service", "tag": "1"},
    "api": {"autoscaling": {"enabled": True, "minReplicas": 1, "maxReplicas": 3}},
    "worker": {"replicas": 2},
    "networkPolicy": {"enabled": True},
    "ingress": {"enabled": True, "hosts": [{"host": "tasks.example.org"}]},
}
JOB: Object = {
    "apiVersion": "batch/v1",
    "kind": "Job",
    "metadata": {"name": "demo-migrate-1", "labels": {"app.kubernetes.io/component": "migration"}},
    "spec": {"ttlSecondsAfterFinished": 60, "template": {}},
}


def helm() -> str:
    """The helm of the test cluster, or the machine's."""
    found = str(bin_dir() / "helm") if (bin_dir() / "helm").exists() else shutil.which("helm")
    if not found:
        skip_or_fail("no helm on this machine")
    return found


@pytest.fixture
def renderer() -> Renderer:
    return Renderer(helm(), ROOT / "charts/task-service", "ops", "v1.36.0", renders_at_once=2)


@pytest.mark.parametrize(
    "manifest",
    [
        pytest.param({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role"}, id="RBAC"),
        pytest.param({"apiVersion": "v1", "kind": "Secret"}, id="a Secret"),
        pytest.param({"apiVersion": "v1", "kind": "Namespace"}, id="a cluster-scoped object"),
        pytest.param(
            {"apiVersion": "extensions/v1beta1", "kind": "Deployment"},
            id="another API of a known kind",
        ),
    ],
)
def test_a_kind_that_is_not_in_the_list_is_refused(manifest: Object) -> None:
    with pytest.raises(RenderError, match="is not a kind that the operator applies"):
        desired_objects([manifest | {"metadata": {"name": "x"}}], task_service())


def test_another_namespace_is_refused() -> None:
    foreign = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "x", "namespace": "kube-system"},
    }
    with pytest.raises(RenderError, match="into another namespace than team"):
        desired_objects([foreign], task_service())


def test_children_get_owner_namespace_label_and_the_hash_of_what_was_rendered() -> None:
    child = adopt(
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}, "data": {"a": "1"}},
        task_service(),
    )
    assert child["metadata"]["namespace"] == "team"
    assert child["metadata"]["labels"] == {"app.kubernetes.io/managed-by": "task-operator"}
    (owner,) = child["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["uid"], owner["controller"]) == ("TaskService", "owner", True)
    other = adopt(
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}, "data": {"a": "2"}},
        task_service(),
    )
    assert other["metadata"]["annotations"] != child["metadata"]["annotations"]


def test_replicas_and_the_migration_are_taken_out() -> None:
    fixed, scaled = deployment("demo-api"), deployment("demo-worker")
    del scaled["spec"]["replicas"]
    for item in (fixed, scaled):
        del item["status"]
    desired = desired_objects(copy.deepcopy([fixed, JOB, scaled]), task_service())
    assert desired.replicas == {"demo-api": 2}
    assert all("replicas" not in child["spec"] for child in desired.children)
    assert desired.migration is not None
    assert "ttlSecondsAfterFinished" not in desired.migration["spec"]


def test_nulls_are_left_out_since_they_can_never_look_applied() -> None:
    manifest = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "x", "labels": None},
        "data": {"a": None},
    }
    (child,) = desired_objects([manifest], task_service()).children
    assert child["data"] == {}


def test_the_values_are_the_spec_with_what_only_the_operator_knows() -> None:
    values = operator_values({"image": {"tag": "1"}, "paused": True}, ISSUERS, "ops")
    assert values == {
        "image": {"tag": "1"},
        "trustedIssuers": ISSUERS,
        "operator": {"namespace": "ops"},
    }


async def test_the_chart_renders_what_the_spec_says(renderer: Renderer) -> None:
    desired = await renderer.render(task_service(spec=EVERYTHING), ISSUERS)
    assert desired.replicas == {"demo-worker": 2}
    assert desired.migration is not None
    assert [kind_name(child) for child in desired.children][:1] == ["ServiceAccount"]
    assert await renderer.render(task_service(spec=EVERYTHING), ISSUERS) == desired


async def test_helms_own_words_say_what_is_wrong_with_a_spec(renderer: Renderer) -> None:
    with pytest.raises(RenderError, match="conversationsMinSeconds"):
        await renderer.render(
            task_service(spec={"settings": {"conversationsMinSeconds": "soon"}}), ISSUERS
        )


async def test_the_list_of_kinds_is_what_any_spec_renders(renderer: Renderer) -> None:
    desired = await renderer.render(task_service(spec=EVERYTHING), ISSUERS)
    assert kinds_of(desired) == {kind.kind for kind in KINDS}


def test_the_rights_are_those_of_the_list_of_kinds() -> None:
    rights: dict[tuple[str, str], set[str]] = {}
    for rule in rules():
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                rights[(group, resource)] = set(rule["verbs"])
    full = {"get", "list", "watch", "create", "patch", "delete"}
    assert {name for name, verbs in rights.items() if verbs == full} == {
        (kind.group, kind.plural) for kind in KINDS
    }
    others = {name: verbs for name, verbs in rights.items() if verbs != full}
    assert others == {
        ("taskservice.dev", "taskservices"): {"get", "list", "watch"},
        ("taskservice.dev", "taskservices/status"): {"patch"},
        ("", "pods"): {"get", "list", "watch", "patch", "delete"},
        ("", "events"): {"list", "create"},
    }


def kind_name(manifest: Object) -> str:
    return str(manifest["kind"])


def kinds_of(desired: Desired) -> set[str]:
    return {kind_name(child) for child in (*desired.children, desired.migration) if child}


def rules() -> list[Object]:
    """The rules of the operator's chart for a namespace that it serves."""
    text = Path(ROOT / "charts/task-operator/templates/_helpers.tpl").read_text()
    body = (
        text.split('{{- define "task-operator.rules" -}}')[1]
        .split("*/ -}}")[1]
        .split("{{- end }}")[0]
    )
    found: list[Object] = yaml.safe_load(body)
    return found
