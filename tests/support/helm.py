"""Rendering the chart for tests, and the value sets that golden manifests are kept for."""

import json
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from task_operator.spec import chart_values

Manifest = dict[str, Any]

REPOSITORY = Path(__file__).resolve().parents[2]
CHART = REPOSITORY / "charts/task-service"
OPERATOR_CHART = REPOSITORY / "charts/task-operator"
VALUES = REPOSITORY / "tests/charts/values"
GOLDEN = REPOSITORY / "tests/charts/golden"
OPERATOR_FLAGS = ("--no-hooks", "--skip-tests")
AUTH: Manifest = {"secretRef": {"name": "task-service-auth"}}
MINIMAL: Manifest = {"database": {"secretRef": {"name": "task-service-database"}}, "auth": AUTH}


class RefusedError(RuntimeError):
    """Helm refused the values; the text is what it said."""


@dataclass(frozen=True)
class Case:
    """A set of values, and how Helm is called with them."""

    name: str
    values: Manifest
    flags: tuple[str, ...] = field(default=())
    chart: Path = CHART

    @property
    def golden(self) -> Path:
        return GOLDEN / f"{self.name}.yaml"


def read(path: Path) -> Manifest:
    loaded: Manifest = yaml.safe_load(path.read_text())
    return loaded


def sample(name: str) -> Manifest:
    """The spec of a sample, as the operator hands it to the chart."""
    return chart_values(read(REPOSITORY / f"k8s/samples/{name}.yaml")["spec"])


def cases() -> list[Case]:
    """The value sets: by Helm on install and upgrade, and as the operator renders samples."""
    return [
        Case("minimal", MINIMAL),
        Case("development", read(CHART / "values-dev.yaml")),
        Case("staging", read(CHART / "values-staging.yaml")),
        Case("production", read(CHART / "values-production.yaml")),
        Case("autoscaled", sample("autoscaled")),
        Case("in-cluster-postgresql", read(VALUES / "in-cluster-postgresql.yaml")),
        Case("upgrade", read(VALUES / "upgrade.yaml"), ("--is-upgrade",)),
        Case(
            "operator-minimal", sample("minimal") | read(VALUES / "operator.yaml"), OPERATOR_FLAGS
        ),
        Case("operator-full", sample("full") | read(VALUES / "operator.yaml"), OPERATOR_FLAGS),
    ]


def operator_cases() -> list[Case]:
    """Value sets of the operator's own chart; the CRD, which is checked by itself, is left out."""
    return [
        Case("task-operator", {"crds": {"enabled": False}}, chart=OPERATOR_CHART),
        Case(
            "task-operator-namespaces",
            read(VALUES / "task-operator-namespaces.yaml"),
            chart=OPERATOR_CHART,
        ),
    ]


class Helm:
    """The helm and kubeconform of the tests' cluster."""

    def __init__(self, bins: Path) -> None:
        self.bins = bins

    def _run(self, program: str, *argv: object, text: str = "") -> str:
        words = [str(self.bins / program), *map(str, argv)]
        done = subprocess.run(words, input=text, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RefusedError(done.stderr + done.stdout)
        return done.stdout

    def template(
        self, values: Manifest, *flags: str, name: str = "demo", chart: Path = CHART
    ) -> str:
        """The rendered manifests as text; raises RefusedError."""
        fixed = ("--namespace", "tasks", "--kube-version", "1.36.3", "--values", "-")
        return self._run("helm", "template", name, chart, *fixed, *flags, text=json.dumps(values))

    def manifests(self, values: Manifest, *flags: str) -> dict[str, Manifest]:
        """The rendered manifests by `Kind/name`."""
        return by_name(self.template(values, *flags))

    def lint(self, values: Manifest) -> str:
        return self._run(
            "helm", "lint", "--strict", CHART, "--values", "-", text=json.dumps(values)
        )

    def conforms(self, schemas: list[Path], *files: Path) -> str:
        """Check the files with kubeconform against schemas in these folders; raises RefusedError."""
        places = [
            word
            for folder in schemas
            for word in ("-schema-location", f"{folder}/{{{{.ResourceKind}}}}.json")
        ]
        return self._run("kubeconform", "-strict", "-summary", *places, *files)

    def kustomize(self, folder: Path) -> str:
        """What `kubectl kustomize` builds."""
        return self._run("kubectl", "kustomize", folder)


def by_name(text: str) -> dict[str, Manifest]:
    """Manifests by `Kind/name`."""
    return {f"{m['kind']}/{m['metadata']['name']}": m for m in yaml.safe_load_all(text) if m}


def of_kind(manifests: dict[str, Manifest], kind: str) -> list[Manifest]:
    return [manifest for key, manifest in manifests.items() if key.startswith(f"{kind}/")]


def pod_specs(manifests: dict[str, Manifest]) -> dict[str, Manifest]:
    """The pod spec of everything that makes pods."""
    found = {}
    for key, manifest in manifests.items():
        if manifest["kind"] == "Pod":
            found[key] = manifest["spec"]
        elif "template" in manifest.get("spec", {}):
            found[key] = manifest["spec"]["template"]["spec"]
    return found
