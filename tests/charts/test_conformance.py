"""kubeconform, without a network: every manifest has only fields that Kubernetes knows, of the
right type.
"""

import json
from pathlib import Path

import pytest

from tests.support.helm import GOLDEN, OPERATOR_CHART, REPOSITORY, Helm, RefusedError
from tests.support.kube_schemas import FOLDER, taskservice_schema

OVERLAYS = sorted((REPOSITORY / "k8s/overlays").iterdir())


@pytest.fixture
def schemas(tmp_path: Path) -> list[Path]:
    """Folders with a schema for every kind that we write."""
    (tmp_path / "taskservice.json").write_text(json.dumps(taskservice_schema()))
    return [FOLDER, tmp_path]


def test_every_golden_manifest_conforms(helm: Helm, schemas: list[Path]) -> None:
    summary = helm.conforms(schemas, *sorted(GOLDEN.glob("*.yaml")))
    assert "Invalid: 0, Errors: 0, Skipped: 0" in summary


def test_the_operators_chart_conforms_with_its_crd(
    helm: Helm, schemas: list[Path], tmp_path: Path
) -> None:
    rendered = tmp_path / "rendered.yaml"
    rendered.write_text(helm.template({}, chart=OPERATOR_CHART))
    assert "kind: CustomResourceDefinition" in rendered.read_text()
    assert "Invalid: 0, Errors: 0, Skipped: 0" in helm.conforms(schemas, rendered)


def test_the_crd_and_the_samples_conform(helm: Helm, schemas: list[Path]) -> None:
    files = [REPOSITORY / "k8s/crd.yaml", *sorted((REPOSITORY / "k8s/samples").glob("*.yaml"))]
    assert f"Valid: {len(files)}, Invalid: 0, Errors: 0, Skipped: 0" in helm.conforms(
        schemas, *files
    )


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.name)
def test_every_overlay_builds_and_conforms(
    helm: Helm, schemas: list[Path], tmp_path: Path, overlay: Path
) -> None:
    built = tmp_path / "built.yaml"
    built.write_text(helm.kustomize(overlay))
    assert "Valid: 2, Invalid: 0, Errors: 0, Skipped: 0" in helm.conforms(schemas, built)


def test_a_misspelt_field_does_not_conform(helm: Helm, schemas: list[Path], tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(
        (GOLDEN / "minimal.yaml").read_text().replace("failureThreshold", "failureTreshold")
    )
    with pytest.raises(RefusedError, match="failureTreshold"):
        helm.conforms(schemas, wrong)
