"""Generate the CRD, the chart's values and their schema, and the reference page from the models."""

from collections.abc import Callable
from pathlib import Path

from task_operator.generate import crd, reference, values

OUTPUTS: dict[str, Callable[[], str]] = {
    "k8s/crd.yaml": crd.manifest,
    "charts/task-operator/templates/crd.yaml": crd.template,
    "charts/task-service/values.schema.json": values.values_schema,
    "charts/task-service/values.yaml": values.values_yaml,
    "charts/task-service/files/reserved-env.txt": values.reserved_env,
    "docs/reference/taskservice.md": reference.page,
}
REPOSITORY = Path(__file__).resolve().parents[3]


def main(check: bool = False, root: Path = REPOSITORY) -> list[str]:
    """Write the generated files below `root`, and return the paths of the stale ones.

    With `check`, write nothing.
    """
    stale = []
    for name, render in OUTPUTS.items():
        path, text = root / name, render()
        if path.exists() and path.read_text() == text:
            continue
        stale.append(name)
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    return stale
