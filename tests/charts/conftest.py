"""What the chart tests share: helm and kubeconform, and a real API server without nodes."""

from collections.abc import Iterator

import pytest

from tests.cluster import binaries
from tests.support.cluster import running_cluster
from tests.support.helm import Helm
from tests.support.kube import CommandError, Kube, poll
from tests.support.skipping import skip_or_fail

REPOSITORY = binaries.HERE.parents[1]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden",
        action="store_true",
        help="write the golden files instead of comparing them",
    )


@pytest.fixture(scope="session")
def update_golden(request: pytest.FixtureRequest) -> bool:
    """Whether golden files are written; the option is known only when this folder is named on the
    command line.
    """
    return bool(request.config.getoption("--update-golden", default=False))


@pytest.fixture(scope="session")
def helm() -> Helm:
    """Helm, kubectl and kubeconform from the cache of `tests.cluster`."""
    absent = {"helm", "kubectl", "kubeconform"} & set(binaries.missing())
    if absent:
        skip_or_fail(f"not built: {', '.join(sorted(absent))}; run `python -m tests.cluster build`")
    return Helm(binaries.bin_dir())


def _serves_taskservices(kube: Kube) -> bool:
    try:
        return bool(kube.run("get", "--raw", "/apis/taskservice.dev/v1alpha1/taskservices"))
    except CommandError:
        return False


@pytest.fixture(scope="package")
def api_server() -> Iterator[Kube]:
    """A real API server with the CRD, and the namespace `tasks` that enforces restricted Pod
    Security and warns.
    """
    with running_cluster(0) as cluster:
        kube = Kube(cluster, "tasks")
        kube.run("apply", "--server-side", "-f", REPOSITORY / "k8s/crd.yaml")
        poll("the API server serves TaskServices", lambda: _serves_taskservices(kube))
        levels = {
            f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")
        }
        kube.apply(
            {
                "apiVersion": "v1",
                "kind": "Namespace",
                "metadata": {"name": "tasks", "labels": levels},
            }
        )
        yield kube
