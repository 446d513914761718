"""The operator's own chart."""

import subprocess
from typing import Any

import pytest
import yaml

from tests.support.operator_environment import ROOT
from tests.task_operator.test_render import helm

CHART = ROOT / "charts/task-operator"
Object = dict[str, Any]


def template(*flags: str) -> list[Object]:
    text = subprocess.run(
        [helm(), "template", "op", str(CHART), "--namespace", "ops", *flags],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return [item for item in yaml.safe_load_all(text) if item]


def names(items: list[Object], kind: str) -> list[tuple[str, str]]:
    return [
        (item["metadata"].get("namespace", ""), item["metadata"]["name"])
        for item in items
        if item["kind"] == kind
    ]


def test_the_chart_passes_helms_strict_lint() -> None:
    done = subprocess.run(
        [helm(), "lint", "--strict", str(CHART)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_cluster_wide_there_is_one_cluster_role_and_no_role_elsewhere() -> None:
    items = template()
    assert names(items, "ClusterRole") == [("", "ops-op")]
    assert names(items, "Role") == [("", "op")]


def test_with_a_list_of_namespaces_there_are_only_roles_in_them() -> None:
    items = template("--set", "watchNamespaces={a,b}")
    assert names(items, "ClusterRole") == names(items, "ClusterRoleBinding") == []
    assert names(items, "Role") == [("", "op"), ("a", "ops-op"), ("b", "ops-op")]
    (deployment,) = (item for item in items if item["kind"] == "Deployment")
    environment = deployment["spec"]["template"]["spec"]["containers"][0]["env"]
    assert {"name": "WATCH_NAMESPACES", "value": "a,b"} in environment


def test_no_role_reads_secrets_or_writes_rights() -> None:
    for item in template():
        for rule in item.get("rules") or ():
            resources = set(rule.get("resources") or ())
            assert not resources & {
                "secrets",
                "pods/log",
                "pods/exec",
                "roles",
                "rolebindings",
                "*",
            }
            assert "*" not in rule["verbs"]


def test_the_crd_can_be_left_out() -> None:
    assert names(template("--set", "crds.enabled=false"), "CustomResourceDefinition") == []


@pytest.mark.parametrize(
    "flag", ["replicas=-1", "image.oops=1", "watchNamespaces={Not_A_Name}", "settings.lower=1"]
)
def test_wrong_values_are_refused(flag: str) -> None:
    with pytest.raises(subprocess.CalledProcessError):
        template("--set", flag)
