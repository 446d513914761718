"""What holds for the rendered workload, whatever the values."""

import json
from typing import Any

import pytest

from tests.charts.helm import MINIMAL, OPERATOR_FLAGS, Case, Helm, by_name, cases, of_kind, pod_specs

ALL = pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
SERVICE_DEPLOYMENTS = ("Deployment/demo-api", "Deployment/demo-worker")


def manifests(case: Case) -> dict[str, dict[str, Any]]:
    return by_name(case.golden.read_text())


def with_settings(**settings: Any) -> dict[str, Any]:
    return MINIMAL | {"settings": settings}


def environment(manifest: dict[str, Any]) -> dict[str, str]:
    container = manifest["spec"]["template"]["spec"]["containers"][0]
    return {env["name"]: env.get("value", "") for env in container["env"]}


@ALL
def test_no_pod_has_a_token_or_a_writable_root(case: Case) -> None:
    for key, spec in pod_specs(manifests(case)).items():
        assert spec["automountServiceAccountToken"] is False, key
        assert spec["enableServiceLinks"] is False, key
        assert [c["securityContext"]["readOnlyRootFilesystem"] for c in spec["containers"]] == [True], key


@ALL
def test_every_pod_says_what_it_needs(case: Case) -> None:
    for key, spec in pod_specs(manifests(case)).items():
        for container in spec["containers"]:
            assert {"cpu", "memory"} <= set(container["resources"]["requests"]), key
            assert "memory" in container["resources"]["limits"], key


@ALL
def test_liveness_outlasts_three_leases_and_startup_half_an_hour(case: Case) -> None:
    lease = case.values.get("settings", {}).get("leaseSeconds", 15)
    for key in SERVICE_DEPLOYMENTS:
        container = manifests(case)[key]["spec"]["template"]["spec"]["containers"][0]
        live, start = container["livenessProbe"], container["startupProbe"]
        assert live["periodSeconds"] * live["failureThreshold"] > 3 * lease
        assert start["periodSeconds"] * start["failureThreshold"] >= 1800
        assert {container[probe]["httpGet"]["port"] for probe in ("livenessProbe", "startupProbe")} == {"management"}


@pytest.mark.parametrize("lease", [3, 10, 60, 3600])
def test_liveness_follows_the_lease(helm: Helm, lease: int) -> None:
    rendered = helm.manifests(with_settings(heartbeatSeconds=1, leaseSeconds=lease))
    probe = rendered["Deployment/demo-worker"]["spec"]["template"]["spec"]["containers"][0]["livenessProbe"]
    assert 3 * lease < probe["periodSeconds"] * probe["failureThreshold"] <= 3 * lease + 20


@ALL
def test_no_credential_is_anywhere_but_in_a_secret(case: Case) -> None:
    text = json.dumps([m for key, m in manifests(case).items() if not key.startswith("Secret/")])
    assert "secret-word" not in text
    assert "p@ss" not in text


@ALL
def test_a_pod_stops_its_work_before_the_kubelet_stops_it(case: Case) -> None:
    for key in SERVICE_DEPLOYMENTS:
        manifest = manifests(case)[key]
        pod = manifest["spec"]["template"]["spec"]
        asleep = pod["containers"][0].get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        assert asleep + int(environment(manifest)["SHUTDOWN_SECONDS"]) < pod["terminationGracePeriodSeconds"]


@ALL
def test_a_deployment_selects_its_own_pods_and_no_others(case: Case) -> None:
    deployments = {key: manifests(case)[key] for key in SERVICE_DEPLOYMENTS}
    for key, manifest in deployments.items():
        selector = manifest["spec"]["selector"]["matchLabels"].items()
        for other, peer in deployments.items():
            assert (selector <= peer["spec"]["template"]["metadata"]["labels"].items()) is (key == other)


def test_a_user_label_never_replaces_one_of_the_chart(helm: Helm) -> None:
    labels = {"app.kubernetes.io/component": "mine", "example.com/a": "b"}
    rendered = helm.manifests(MINIMAL | {"worker": {"podLabels": labels}})["Deployment/demo-worker"]
    given = rendered["spec"]["template"]["metadata"]["labels"]
    assert (given["app.kubernetes.io/component"], given["example.com/a"]) == ("worker", "b")


@pytest.mark.parametrize(
    ("worker", "replicas"),
    [
        ({}, None),
        ({"replicas": 0}, 0),
        ({"replicas": 3}, 3),
        ({"replicas": 3, "autoscaling": {"enabled": True, "maxReplicas": 9}}, None),
    ],
)
def test_replicas_are_left_out_when_unset_or_scaled_by_another(
    helm: Helm, worker: dict[str, Any], replicas: int | None
) -> None:
    rendered = helm.manifests(MINIMAL | {"worker": worker})["Deployment/demo-worker"]
    assert rendered["spec"].get("replicas") == replicas


def test_a_changed_setting_makes_a_new_config_map_and_rolls_both_deployments(helm: Helm) -> None:
    before, after = helm.manifests(MINIMAL), helm.manifests(with_settings(logLevel="DEBUG"))
    assert {m["metadata"]["name"] for m in of_kind(before, "ConfigMap")} != {
        m["metadata"]["name"] for m in of_kind(after, "ConfigMap")
    }
    for key in SERVICE_DEPLOYMENTS:
        source = after[key]["spec"]["template"]["spec"]["containers"][0]["envFrom"][0]["configMapRef"]["name"]
        assert f"ConfigMap/{source}" in after
        assert before[key]["spec"]["template"] != after[key]["spec"]["template"]


def test_new_trust_changes_no_pod(helm: Helm) -> None:
    issuer = {"issuer": "i", "audience": "a", "subject": "s", "jwks": {"keys": []}}
    before, after = helm.manifests(MINIMAL), helm.manifests(MINIMAL | {"trustedIssuers": [issuer]})
    assert json.loads(after["ConfigMap/demo-trust"]["data"]["trusted-issuers.json"])["issuers"] == [issuer]
    assert {key for key in after if before[key] != after[key]} == {"ConfigMap/demo-trust"}


def test_large_numbers_reach_the_service_as_digits(helm: Helm) -> None:
    settings = with_settings(maxBodyBytes=1073741824, conversationsMinSeconds=0.25)
    config = next(m for m in of_kind(helm.manifests(settings), "ConfigMap") if "LOG_LEVEL" in m["data"])["data"]
    assert (config["MAX_BODY_BYTES"], config["CONVERSATIONS_MIN_SECONDS"]) == ("1073741824", "0.25")


def test_the_password_of_the_bundled_database_is_escaped_in_its_url(helm: Helm) -> None:
    import base64

    values = {"postgresql": {"enabled": True, "password": "a@b/c d+e%"}}
    url = base64.b64decode(helm.manifests(values)["Secret/demo-postgresql"]["data"]["url"]).decode()
    assert url == "postgresql://tasks:a%40b%2Fc%20d%2Be%25@demo-postgresql:5432/tasks"


@pytest.mark.parametrize(
    ("image", "reference"),
    [
        ({}, "localhost/task-service:0.1.0"),
        ({"tag": "2"}, "localhost/task-service:2"),
        ({"tag": 20261121}, "localhost/task-service:20261121"),
        (
            {"repository": "r.example.com:5000/x", "digest": "sha256:" + "a" * 64},
            f"r.example.com:5000/x@sha256:{'a' * 64}",
        ),
        ({"tag": "2", "digest": "sha256:" + "a" * 64}, f"localhost/task-service:2@sha256:{'a' * 64}"),
    ],
)
def test_every_part_runs_the_same_image(helm: Helm, image: dict[str, str], reference: str) -> None:
    rendered = pod_specs(helm.manifests(MINIMAL | {"image": image}))
    assert {c["image"] for spec in rendered.values() for c in spec["containers"]} == {reference}


def test_port_8081_is_open_to_the_operator_and_prometheus_only() -> None:
    case = next(case for case in cases() if case.name == "operator-full")
    for component in ("api", "worker"):
        rules = manifests(case)[f"NetworkPolicy/demo-{component}"]["spec"]["ingress"]
        open_to = {rule["ports"][0]["port"]: rule.get("from") for rule in rules}
        assert [sorted(peer) for peer in open_to["management"]] == [
            ["namespaceSelector", "podSelector"],
            ["podSelector"],
        ]
        assert ("http" in open_to) is (component == "api")


def test_the_operator_is_given_namespaced_kinds_only_and_no_rights() -> None:
    kinds = {key.partition("/")[0] for case in cases() if case.flags == OPERATOR_FLAGS for key in manifests(case)}
    namespaced = {"ConfigMap", "Deployment", "Ingress", "Job", "NetworkPolicy", "PodDisruptionBudget"}
    assert kinds == namespaced | {"Service", "ServiceAccount"}
