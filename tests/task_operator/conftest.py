"""Fixtures of the operator's tests against a real API server."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cluster import require_cluster, running_cluster
from tests.support.fake_kubelet import FakeKubelet
from tests.support.fake_management_port import FakeManagementPort
from tests.support.kube import Kube
from tests.support.operator_environment import (
    OperatorProcess,
    World,
    install_rights,
    operator_kubeconfig,
)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    require_cluster(with_images=False)
    with (
        running_cluster(0) as cluster,
        FakeKubelet(cluster.kubeconfig) as kubelet,
        FakeManagementPort() as stand_in,
    ):
        kube = Kube(cluster)
        install_rights(kube)
        kubeconfig: Path = operator_kubeconfig(
            kube, tmp_path_factory.mktemp("operator") / "kubeconfig"
        )
        yield World(cluster, kube, kubelet, stand_in, kubeconfig)
        assert not kubelet.errors


@pytest.fixture(scope="module")
def operator(world: World) -> Iterator[OperatorProcess]:
    """The leader, for the tests of one module."""
    process = world.start_operator(migration_retry_seconds=1, survey_seconds=2)
    process.wait_for("signing_keys")
    yield process
    assert process.stop() == 0
