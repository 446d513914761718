"""The whole cluster: up, down, and what is asked of it in between."""

import os
import shutil
import signal
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.cluster import leftovers
from tests.cluster.binaries import bin_dir, build
from tests.cluster.control import ControlPlane
from tests.cluster.machine import attempt
from tests.cluster.network import NODE_NUMBERS, Network
from tests.cluster.node import Node
from tests.cluster.pause import write_pause_archive
from tests.cluster.processes import Processes, wait_until


def default_state(number: int) -> Path:
    return Path(f"/var/tmp/task-service-cluster-{number}")


class Cluster:
    """Cluster `number` (0 to 9) of this machine; its state lies in one folder, so any process can
    pick it up again.
    """

    def __init__(self, number: int = 0, state: Path | None = None) -> None:
        self.number, self.state = number, (state or default_state(number)).resolve()
        self.network = Network(number)
        self.control, self.processes = ControlPlane(self.state, self.network), Processes(self.state)
        self.kubeconfig, self.audit_log = self.control.kubeconfig, self.control.audit_log

    @property
    def nodes(self) -> list[Node]:
        return [self.node(n) for n in NODE_NUMBERS if (self.state / f"node-{n}").exists()]

    def node(self, number: int) -> Node:
        return Node(self.state, self.network, number)

    @property
    def running(self) -> bool:
        return self.processes.alive("kube-apiserver")

    @property
    def environment(self) -> dict[str, str]:
        """The variables that point kubectl, helm and kubeconform at this cluster."""
        return {"KUBECONFIG": str(self.kubeconfig), "PATH": f"{bin_dir()}:{os.environ['PATH']}"}

    def up(self, nodes: int = 1, archives: Sequence[object] = ()) -> None:
        """Start; return when the nodes are Ready and have the images, and with nodes DNS and
        metrics answer too.
        """
        if self.state.exists() and any(self.state.iterdir()):
            raise SystemExit(f"cluster: {self.state} is in use; run down first")
        build()
        for folder in (self.control.pki.folder, self.processes.logs, self.processes.pids):
            folder.mkdir(parents=True)
        self.network.create()
        self.control.pki.create()
        self.control.start()
        write_pause_archive(bin_dir() / "pause", self.state / "pause.tar")
        if nodes:
            self._start_nodes([self.node(n) for n in range(1, nodes + 1)], archives)

    def _start_nodes(self, nodes: list[Node], archives: Sequence[object]) -> None:
        def start(node: Node) -> None:
            node.start()
            node.load(*archives)  # while the first metrics are awaited

        with ThreadPoolExecutor(max_workers=len(nodes)) as pool:
            starting = pool.map(start, nodes)
            self.control.start_dns()
            self.control.start_metrics()
            list(starting)
        wait_until(
            lambda: self._ready_nodes() == len(nodes),
            f"not every node is Ready; see {self.processes.logs}",
        )
        wait_until(self.control.metrics_ready, f"no metrics; see {self.processes.logs}", 90)

    def _ready_nodes(self) -> int:
        ready = "jsonpath={.items[*].status.conditions[?(@.type=='Ready')].status}"
        return self.control.ask("get", "nodes", "-o", ready).split().count("True")

    def load(self, *archives: object) -> None:
        """Import OCI archives on every node: pods then use the images with imagePullPolicy Never or
        IfNotPresent.
        """
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda node: node.load(*archives), self.nodes))

    def pids(self, namespace: str, pod: str, container: str | None = None) -> list[int]:
        """The host's process ids of a pod's container (its first one by default), its first process
        first.
        """
        for node in self.nodes:
            if pids := node.pids(namespace, pod, container):
                return pids
        return []

    def down(self) -> None:
        """Stop every process of the cluster and remove its namespaces, mounts, cgroups and state."""
        running = self.processes.names()
        last = [
            name
            for name in running
            if name.endswith("containerd") or name in ("kube-apiserver", "etcd")
        ]
        self.processes.stop((name for name in running if name not in last), seconds=3)
        for node in self.nodes:
            if self.network.has(node.name):
                node.plug(connected=True)
            node.stop_containers()
        self.processes.stop(last, seconds=1)
        for shim in attempt("pgrep", "-f", f"containerd-shim-runc-v2.*{self.state}/").split():
            os.kill(int(shim), signal.SIGKILL)
        leftovers.remove_container_traces(self.state)
        leftovers.unmount_below(self.state)
        self.network.remove()
        leftovers.remove_cgroups(self.network.bridge)
        shutil.rmtree(self.state, ignore_errors=True)
        leftovers.remove_from_shared_folders(self.state)
