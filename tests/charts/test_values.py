"""The chart's values: what lint says, and what is refused."""

from pathlib import Path
from typing import Any

import pytest

from tests.support.bad_specs import BAD, Bad
from tests.support.helm import CHART, MINIMAL, Case, Helm, RefusedError, cases, read

ENVIRONMENTS = sorted(CHART.glob("values-*.yaml"))
CHART_ONLY = [
    ({"secret": {"create": True}, "database": {}}, "secret.databaseUrl: required"),
    (
        {"secret": {"create": True, "databaseUrl": "postgresql://x"}},
        "database.secretRef: set exactly one of",
    ),
    ({"auth": {}}, r"auth: secretRef is required .* or set secret.create and secret.secretKey"),
    ({"secret": {"create": True, "secretKey": "k" * 32}}, "auth.secretRef: set only one of"),
    (
        {"secret": {"create": True, "secretKey": "k" * 31}, "auth": {}},
        "secret.secretKey: must have at least 32",
    ),
    (
        {"secret": {"create": True, "secretKey": "k" * 32, "adminUsername": "root"}, "auth": {}},
        "secret.adminPassword: set both",
    ),
    (
        {"secret": {"create": True, "adminUsername": "a", "adminPassword": "b"}},
        "secret.adminUsername: requires",
    ),
    ({"postgresql": {"enabled": True}, "database": {}}, "postgresql.password: required"),
    ({"postgresql": {"enabled": True, "password": "x"}}, "database.secretRef: set exactly one of"),
    (
        {"valkey": {"enabled": True}, "redis": {"secretRef": {"name": "r"}}},
        "redis.secretRef: set only one of",
    ),
    ({"trustedIssuers": [{"issuer": "i", "audience": "a", "subject": "s"}]}, "jwks"),
    ({"paused": True}, "paused"),
]


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
def test_lint_has_nothing_to_say_about_the_chart(helm: Helm, case: Case) -> None:
    assert "0 chart(s) failed" in helm.lint(case.values)


@pytest.mark.parametrize("path", ENVIRONMENTS, ids=lambda path: path.stem)
def test_the_values_of_an_environment_render(helm: Helm, path: Path) -> None:
    assert "Deployment/demo-api" in helm.manifests(read(path))


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.name)
def test_helm_refuses_bad_values_and_names_the_field(helm: Helm, bad: Bad) -> None:
    with pytest.raises(RefusedError) as refusal:
        helm.template(bad.spec)
    for word in bad.words:
        assert word in str(refusal.value)


@pytest.mark.parametrize(
    ("change", "message"), CHART_ONLY, ids=lambda value: value if isinstance(value, str) else ""
)
def test_helm_refuses_what_only_the_chart_has(
    helm: Helm, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(RefusedError, match=message):
        helm.template(MINIMAL | change)


@pytest.mark.parametrize("name", ["9tasks", "a" * 41])
def test_helm_refuses_a_release_name_that_no_taskservice_can_have(helm: Helm, name: str) -> None:
    with pytest.raises(RefusedError, match=r"metadata\.name must"):
        helm.template(MINIMAL, name=name)


def test_every_broken_rule_is_told_at_once(helm: Helm) -> None:
    values = {"settings": {"heartbeatSeconds": 9}, "ingress": {"enabled": True}}
    with pytest.raises(RefusedError) as refusal:
        helm.template(values)
    for field in ("heartbeatSeconds", "ingress: hosts", "database.secretRef", "auth: secretRef"):
        assert field in str(refusal.value)
