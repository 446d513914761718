"""What holds for the rendered workload, whatever the values."""

import json
from pathlib import Path
from typing import Any

import pytest

from task_service.api.auth.first_admin import StartRefusedError, refuse_bad_start
from task_service.api.auth.issuer_config import TrustFile
from task_service.settings import Settings as ServiceSettings
from task_service.settings import load_settings
from tests.support.helm import (
    AUTH,
    MINIMAL,
    OPERATOR_FLAGS,
    Case,
    Helm,
    by_name,
    cases,
    of_kind,
    pod_specs,
)

ALL = pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
SERVICE_DEPLOYMENTS = ("Deployment/demo-api", "Deployment/demo-worker")


def manifests(case: Case) -> dict[str, dict[str, Any]]:
    return by_name(case.golden.read_text())


def with_settings(**settings: Any) -> dict[str, Any]:
    return MINIMAL | {"settings": settings}


def environment(manifest: dict[str, Any]) -> dict[str, str]:
    container = manifest["spec"]["template"]["spec"]["containers"][0]
    return {env["name"]: env.get("value", "") for env in container["env"]}


def settings_of(rendered: dict[str, dict[str, Any]]) -> dict[str, str]:
    """The environment variables that all pods share."""
    found: dict[str, str] = next(
        m["data"] for m in of_kind(rendered, "ConfigMap") if "LOG_LEVEL" in m["data"]
    )
    return found


@ALL
def test_no_pod_has_a_token_or_a_writable_root(case: Case) -> None:
    for key, spec in pod_specs(manifests(case)).items():
        assert spec["automountServiceAccountToken"] is False, key
        assert spec["enableServiceLinks"] is False, key
        assert [c["securityContext"]["readOnlyRootFilesystem"] for c in spec["containers"]] == [
            True
        ], key


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
        assert {
            container[probe]["httpGet"]["port"] for probe in ("livenessProbe", "startupProbe")
        } == {"management"}


@pytest.mark.parametrize("lease", [3, 10, 60, 3600])
def test_liveness_follows_the_lease(helm: Helm, lease: int) -> None:
    rendered = helm.manifests(with_settings(heartbeatSeconds=1, leaseSeconds=lease))
    probe = rendered["Deployment/demo-worker"]["spec"]["template"]["spec"]["containers"][0][
        "livenessProbe"
    ]
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
        asleep = (
            pod["containers"][0]
            .get("lifecycle", {})
            .get("preStop", {})
            .get("sleep", {})
            .get("seconds", 0)
        )
        assert (
            asleep + int(environment(manifest)["SHUTDOWN_SECONDS"])
            < pod["terminationGracePeriodSeconds"]
        )


@ALL
def test_a_deployment_selects_its_own_pods_and_no_others(case: Case) -> None:
    deployments = {key: manifests(case)[key] for key in SERVICE_DEPLOYMENTS}
    for key, manifest in deployments.items():
        selector = manifest["spec"]["selector"]["matchLabels"].items()
        for other, peer in deployments.items():
            assert (selector <= peer["spec"]["template"]["metadata"]["labels"].items()) is (
                key == other
            )


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
        source = after[key]["spec"]["template"]["spec"]["containers"][0]["envFrom"][0][
            "configMapRef"
        ]["name"]
        assert f"ConfigMap/{source}" in after
        assert before[key]["spec"]["template"] != after[key]["spec"]["template"]


def test_new_trust_changes_no_pod(helm: Helm) -> None:
    issuer = {"issuer": "i", "audience": "a", "subject": "s", "jwks": {"keys": []}}
    before, after = helm.manifests(MINIMAL), helm.manifests(MINIMAL | {"trustedIssuers": [issuer]})
    assert json.loads(after["ConfigMap/demo-trust"]["data"]["trusted-issuers.json"])["issuers"] == [
        issuer
    ]
    assert {key for key in after if before[key] != after[key]} == {"ConfigMap/demo-trust"}


def test_more_issuers_stand_beside_the_operators_in_the_words_of_the_service() -> None:
    case = next(case for case in cases() if case.name == "operator-full")
    text = manifests(case)["ConfigMap/demo-trust"]["data"]["trusted-issuers.json"]
    operator, login, ci = TrustFile.model_validate_json(text).issuers
    (given,) = case.values["trustedIssuers"]
    assert operator.model_dump(exclude_none=True, include=set(given)) == given
    assert (login.jwks_uri, login.name_prefix) == (
        "https://login.example.com/.well-known/jwks.json",
        "sso:",
    )
    assert login.role_of({"groups": ["task-users", "task-admins"]}) == "admin"
    assert login.name_of({"sub": "1", "email": "ann@example.com"}) == "sso:ann@example.com"
    assert (ci.subject, ci.role_of({})) == ("nightly-import", "editor")
    assert ci.jwks is not None
    assert ci.jwks.key("1", "ES256") is not None


def test_only_the_api_has_what_signs_tokens(helm: Helm) -> None:
    keys = {"secretKey": "key", "adminPassword": "word"}
    rendered = helm.manifests(MINIMAL | {"auth": {"secretRef": {"name": "tokens", "keys": keys}}})
    holders = {key for key, manifest in rendered.items() if '"tokens"' in json.dumps(manifest)}
    assert holders == {"Deployment/demo-api"}
    api = rendered["Deployment/demo-api"]
    (volume,) = (v for v in api["spec"]["template"]["spec"]["volumes"] if v["name"] == "auth")
    needed, wished = (source["secret"] for source in volume["projected"]["sources"])
    assert (needed["items"], needed.get("optional")) == (
        [{"key": "key", "path": "secret-key"}],
        None,
    )
    assert (wished["items"], wished["optional"]) == (
        [{"key": "word", "path": "admin-password"}],
        True,
    )
    assert environment(api)["SECRET_KEY_FILE"] == "/etc/task-service/auth/secret-key"


def test_the_open_mode_needs_no_secret(helm: Helm) -> None:
    rendered = helm.manifests(
        MINIMAL | {"auth": {"mode": "open"}, "settings": {"environment": "development"}}
    )
    assert "SECRET_KEY_FILE" not in environment(rendered["Deployment/demo-api"])
    assert settings_of(rendered)["AUTH_MODE"] == "open"


def test_the_api_starts_with_a_secret_that_names_no_administrator(
    helm: Helm, tmp_path: Path
) -> None:
    rendered = helm.manifests(MINIMAL)
    folder = "/etc/task-service/auth"
    given = environment(rendered["Deployment/demo-api"]) | settings_of(rendered)
    files = {
        name.lower(): value.replace(folder, str(tmp_path))
        for name, value in given.items()
        if folder in value
    }
    mode = {name: given[name.upper()] for name in ("environment", "auth_mode")}
    with pytest.raises(StartRefusedError, match="SECRET_KEY_FILE"):
        refuse_bad_start(load_settings(**files, **mode))
    (tmp_path / "secret-key").write_text("c94a7b1f0e5d8632c94b7a1e0f5d8362")
    refuse_bad_start(load_settings(**files, **mode))


def test_the_chart_can_make_the_secret_beside_a_database_of_its_own(helm: Helm) -> None:
    secret = {
        "create": True,
        "secretKey": "k" * 32,
        "adminUsername": "root",
        "adminPassword": "first",
    }
    rendered = helm.manifests({"postgresql": {"enabled": True, "password": "x"}, "secret": secret})
    assert set(rendered["Secret/demo-credentials"]["data"]) == {
        "secret-key",
        "admin-username",
        "admin-password",
    }
    volumes = {
        v["name"]: v for v in rendered["Deployment/demo-api"]["spec"]["template"]["spec"]["volumes"]
    }
    assert volumes["database"]["secret"]["secretName"] == "demo-postgresql"
    assert volumes["auth"]["projected"]["sources"][0]["secret"]["name"] == "demo-credentials"


@pytest.mark.parametrize("component", ["api", "worker"])
def test_redis_reaches_the_pods_by_a_file_or_by_the_bundled_valkey(
    helm: Helm, component: str
) -> None:
    given = helm.manifests(MINIMAL | {"redis": {"secretRef": {"name": "cache"}}})
    bundled = helm.manifests(MINIMAL | {"valkey": {"enabled": True}})
    key = f"Deployment/demo-{component}"
    assert environment(given[key])["REDIS_URL_FILE"] == "/etc/task-service/redis/url"
    assert "REDIS_URL_FILE" not in environment(bundled[key])
    assert settings_of(bundled)["REDIS_URL"] == "redis://demo-valkey:6379/0"


def test_every_setting_with_a_field_reaches_the_service(helm: Helm) -> None:
    settings = {
        "corsOrigins": ["https://a.example.com", "https://b.example.com"],
        "trustedProxies": ["10.0.0.0/8", "fd00::/8"],
        "rateLimits": {"read": "600/minute", "upload": "5/hour"},
        "otel": {"enabled": True, "endpoint": "http://collector:4318", "sampleRatio": 0.1},
        "dailyLog": {"cron": "30 1 * * *", "timeZone": "Europe/Berlin"},
        "rootCompatibility": "e",
        "maxUploadBytes": 2147483648,
    }
    config = settings_of(helm.manifests(with_settings(**settings)))
    known = set(ServiceSettings.model_fields)
    assert {name for name in config if name.lower() not in known} == set()
    read = load_settings(**{name.lower(): value for name, value in config.items()})
    assert read.cors_origins == ("https://a.example.com", "https://b.example.com")
    assert read.trusted_proxies == ("10.0.0.0/8", "fd00::/8")
    assert (read.rate_limit_read, read.rate_limit_write, read.rate_limit_upload) == (
        "600/minute",
        None,
        "5/hour",
    )
    assert (read.otel_enabled, read.otel_exporter_endpoint) == (True, "http://collector:4318")
    assert (read.otel_sample_ratio, read.max_upload_bytes, read.root_compatibility) == (
        0.1,
        2147483648,
        "e",
    )
    assert (read.daily_log_cron, read.daily_log_time_zone) == ("30 1 * * *", "Europe/Berlin")


def test_defaults_of_the_chart_are_those_of_the_service(helm: Helm) -> None:
    config = settings_of(helm.manifests(MINIMAL))
    defaults = {name: field.default for name, field in ServiceSettings.model_fields.items()}
    differing = {name for name, value in config.items() if value != str(defaults[name.lower()])}
    assert differing == {"ENVIRONMENT"}


def test_large_numbers_reach_the_service_as_digits(helm: Helm) -> None:
    settings = with_settings(maxBodyBytes=1073741824, conversationsMinSeconds=0.25)
    config = settings_of(helm.manifests(settings))
    assert (config["MAX_BODY_BYTES"], config["CONVERSATIONS_MIN_SECONDS"]) == ("1073741824", "0.25")


def test_the_password_of_the_bundled_database_is_escaped_in_its_url(helm: Helm) -> None:
    import base64

    values = {"auth": AUTH, "postgresql": {"enabled": True, "password": "a@b/c d+e%"}}
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
        (
            {"tag": "2", "digest": "sha256:" + "a" * 64},
            f"localhost/task-service:2@sha256:{'a' * 64}",
        ),
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
    kinds = {
        key.partition("/")[0]
        for case in cases()
        if case.flags == OPERATOR_FLAGS
        for key in manifests(case)
    }
    namespaced = {
        "ConfigMap",
        "Deployment",
        "Ingress",
        "Job",
        "NetworkPolicy",
        "PodDisruptionBudget",
    }
    assert kinds == namespaced | {"Service", "ServiceAccount"}
