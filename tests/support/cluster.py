"""Clusters for tests: start one or say why not, and what tests do to it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.cluster import machine
from tests.cluster.cluster import Cluster
from tests.support import images
from tests.support.skipping import skip_or_fail


def cluster_number() -> int:
    """The cluster of this run (0 to 9), so that several runs fit on a machine; source: $CLUSTER."""
    return int(os.environ.get("CLUSTER", "0"))


def require_cluster(*, with_images: bool = True) -> None:
    """Skip the test, saying why, where no cluster can run; with REQUIRE_CLUSTER=1 that is a failure."""
    reasons = machine.obstacles() + (images.obstacles() if with_images else [])
    if reasons:
        skip_or_fail("no cluster on this machine: " + "; ".join(reasons))


@contextmanager
def running_cluster(
    nodes: int, archives: list[Path] | None = None, number: int | None = None
) -> Iterator[Cluster]:
    """A cluster with that many nodes and the archives loaded; it is gone afterwards.

    With KEEP_CLUSTER=1 it stays, and the next run uses it again if it has as many nodes: for working on tests, and for
    looking at what a failed one left behind.
    """
    require_cluster(with_images=bool(archives))
    cluster = Cluster(cluster_number() if number is None else number)
    keep = os.environ.get("KEEP_CLUSTER") == "1"
    if not (keep and cluster.running and len(cluster.nodes) == nodes):
        if cluster.running and not keep:
            raise RuntimeError(
                f"cluster {cluster.number} is running; end it (make cluster-down) or set CLUSTER to another number"
            )
        cluster.down()  # what a run that was killed has left
    try:
        if cluster.running:
            cluster.load(*(archives or []))
        else:
            _start(cluster, nodes, archives or [])
        yield cluster
    finally:
        if not keep:
            cluster.down()


def _start(cluster: Cluster, nodes: int, archives: list[Path]) -> None:
    try:
        cluster.up(nodes, archives)
    except SystemExit as failure:  # pytest would take it for its own end
        raise RuntimeError(str(failure)) from failure


@contextmanager
def partitioned(cluster: Cluster, node: int) -> Iterator[None]:
    """Cut the node off the network for as long as the block runs; its processes go on."""
    cluster.node(node).plug(connected=False)
    try:
        yield
    finally:
        cluster.node(node).plug(connected=True)
