"""Clusters for tests: start one, or use the existing one of KUBECONFIG."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import pytest

from tests.cluster import machine
from tests.cluster.cluster import Cluster
from tests.support import images
from tests.support.skipping import skip_or_fail


def cluster_number() -> int:
    """Return the number of this run's cluster, from $CLUSTER (0 to 9, default 0)."""
    return int(os.environ.get("CLUSTER", "0"))


def uses_existing_cluster() -> bool:
    """Return whether E2E_CLUSTER=existing selects the cluster of KUBECONFIG."""
    choice = os.environ.get("E2E_CLUSTER", "own")
    if choice not in ("own", "existing"):
        raise ValueError(f"E2E_CLUSTER must be 'own' or 'existing' (got {choice!r})")
    return choice == "existing"


class ExistingCluster:
    """The cluster of KUBECONFIG. Tests that need access to its nodes are skipped."""

    environment: Mapping[str, str] = {}
    """kubectl and helm inherit the variables of this process."""

    @property
    def kubeconfig(self) -> Path:
        """The file that KUBECONFIG names."""
        return Path(os.environ["KUBECONFIG"])

    def pids(self, *_: object) -> list[int]:
        """Skip the test: the processes of containers are on the nodes."""
        self.skip()

    def skip(self) -> NoReturn:
        """Skip the test."""
        pytest.skip("needs access to the nodes, which E2E_CLUSTER=existing does not have")


def require_cluster(*, with_images: bool = True) -> None:
    """Skip the test if this machine cannot run a cluster; with REQUIRE_CLUSTER=1 fail it."""
    reasons = machine.obstacles() + (images.obstacles() if with_images else [])
    if reasons:
        skip_or_fail("no cluster on this machine: " + "; ".join(reasons))


@contextmanager
def running_cluster(
    nodes: int, archives: list[Path] | None = None, number: int | None = None
) -> Iterator[Cluster]:
    """Start a cluster with these nodes and images, and remove it afterwards.

    With KEEP_CLUSTER=1 the cluster remains, and the next run uses it again if it has as many nodes.
    That helps to work on tests and to inspect what a failed test left.
    """
    require_cluster(with_images=bool(archives))
    cluster = Cluster(cluster_number() if number is None else number)
    keep = os.environ.get("KEEP_CLUSTER") == "1"
    if not (keep and cluster.running and len(cluster.nodes) == nodes):
        if cluster.running and not keep:
            raise RuntimeError(
                f"cluster {cluster.number} is already running: run `make cluster-down` "
                "or set CLUSTER to another number"
            )
        cluster.down()  # the rest of a killed run
    try:
        if cluster.running:
            cluster.load(*(archives or []))
        else:
            _start(cluster, nodes, archives or [])
        yield cluster
    finally:
        if not keep:
            cluster.down()


@contextmanager
def own_or_existing_cluster(
    nodes: int, build_archives: Callable[[], list[Path]], number: int | None = None
) -> Iterator[Cluster | ExistingCluster]:
    """Start a cluster with these nodes and images, unless E2E_CLUSTER selects an existing one."""
    if uses_existing_cluster():
        yield ExistingCluster()
        return
    require_cluster()
    with running_cluster(nodes, build_archives(), number) as cluster:
        yield cluster


def _start(cluster: Cluster, nodes: int, archives: list[Path]) -> None:
    try:
        cluster.up(nodes, archives)
    except SystemExit as failure:  # would end pytest
        raise RuntimeError(str(failure)) from failure


@contextmanager
def partitioned(cluster: Cluster, node: int) -> Iterator[None]:
    """Disconnect the node from the network during the block; its processes continue."""
    cluster.node(node).plug(connected=False)
    try:
        yield
    finally:
        cluster.node(node).plug(connected=True)
