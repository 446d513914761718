"""The migration Job: an ordinary one on install, a hook before an upgrade, and never one that would
have to change.
"""

from typing import Any

import pytest

from tests.support.helm import MINIMAL, Helm, of_kind

CHANGES: list[dict[str, Any]] = [
    {"image": {"tag": "2"}},
    {"image": {"pullSecrets": [{"name": "registry"}]}},
    {"database": {"secretRef": {"name": "other"}}},
    {"settings": {"logLevel": "DEBUG"}},
    {"migration": {"backoffLimit": 1}},
    {"migration": {"activeDeadlineSeconds": 60}},
    {"api": {"nodeSelector": {"a": "b"}}},
    {"api": {"extraEnv": [{"name": "A", "value": "b"}]}},
    {"redis": {"secretRef": {"name": "cache"}}},
]


def job(helm: Helm, values: dict[str, Any], *flags: str) -> dict[str, Any]:
    (found,) = of_kind(helm.manifests(values, *flags), "Job")
    return found


def test_on_install_the_job_is_ordinary(helm: Helm) -> None:
    assert "annotations" not in job(helm, MINIMAL)["metadata"]


def test_on_upgrade_the_job_runs_before_anything_changes_and_is_removed(helm: Helm) -> None:
    assert job(helm, MINIMAL, "--is-upgrade")["metadata"]["annotations"] == {
        "helm.sh/hook": "pre-upgrade",
        "helm.sh/hook-delete-policy": "before-hook-creation,hook-succeeded",
    }


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_a_job_that_would_differ_has_another_name(helm: Helm, change: dict[str, Any]) -> None:
    before, after = job(helm, MINIMAL), job(helm, MINIMAL | change)
    assert before["spec"] != after["spec"]
    assert before["metadata"]["name"] != after["metadata"]["name"]


@pytest.mark.parametrize(
    "change",
    [{"worker": {"replicas": 5}}, {"trustedIssuers": []}, {"api": {"replicas": 4}}],
    ids=str,
)
def test_what_does_not_concern_the_migration_keeps_its_name(
    helm: Helm, change: dict[str, Any]
) -> None:
    assert job(helm, MINIMAL) == job(helm, MINIMAL | change)


def test_the_job_of_an_upgrade_replaces_one_that_failed_and_goes_by_itself(helm: Helm) -> None:
    before, after = (
        job(helm, MINIMAL | {"image": {"tag": tag}}, "--is-upgrade") for tag in ("1", "2")
    )
    assert before["metadata"]["name"] == after["metadata"]["name"]
    assert after["spec"]["ttlSecondsAfterFinished"] == 3600


def test_the_job_needs_no_config_map(helm: Helm) -> None:
    spec = job(helm, MINIMAL, "--is-upgrade")["spec"]["template"]["spec"]
    assert "envFrom" not in spec["containers"][0]
    assert [volume for volume in spec["volumes"] if "configMap" in volume] == []
