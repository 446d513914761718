"""One machine of the cluster: a network namespace with containerd, kubelet and kube-proxy."""

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.cluster.authority import Authority
from tests.cluster.binaries import bin_dir
from tests.cluster.machine import CNI_FOLDERS, attempt, sh
from tests.cluster.network import Network
from tests.cluster.processes import Processes, wait_until

CGROUPS = Path("/sys/fs/cgroup")
# restrict_oom_score_adj: without CAP_SYS_RESOURCE no sandbox starts otherwise. The pods' network
# namespaces lie in the node's own state folder, so that removing one cluster does not touch
# another's pods. NRI's socket has one path for the whole machine: two nodes that start at the same
# time would fight for it.
CONTAINERD = """version = 3
root = "{state}/containerd/root"
state = "{state}/containerd/run"
[grpc]
  address = "{socket}"
[plugins."io.containerd.cri.v1.images"]
  snapshotter = "overlayfs"
  [plugins."io.containerd.cri.v1.images".pinned_images]
    sandbox = "localhost/pause:1"
[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = {cni}
    conf_dir = "{state}/cni"
[plugins."io.containerd.nri.v1.nri"]
  disable = true
"""


class Node:
    """Node `number` (1 to 9) of the cluster whose state lies in `state`."""

    def __init__(self, state: Path, network: Network, number: int) -> None:
        self.network, self.number, self.name = network, number, f"node-{number}"
        self.pki, self.processes = Authority(state / "pki", network), Processes(state)
        self.state, self.pause = state / self.name, state / "pause.tar"
        self.socket = self.state / "containerd.sock"

    def ctr(self, *argv: object) -> str:
        return sh(bin_dir() / "ctr", "-a", self.socket, "-n", "k8s.io", *argv)

    def start(self) -> None:
        """Start the node's processes; it joins the cluster by itself some seconds later."""
        (self.state / "cni").mkdir(parents=True)
        ip = self.network.node_ip(self.number)
        self.network.add(self.name, ip)
        self.pki.certificate(
            self.name, f"/O=system:nodes/CN=system:node:{self.name}", f"DNS:{self.name},IP:{ip}"
        )
        self._start_containerd()
        self._start_kubelet()
        bins = bin_dir()
        self._spawn(
            "kube-proxy",
            [bins / "kube-proxy", f"--kubeconfig={self.pki.folder}/kube-proxy.kubeconfig", "--proxy-mode=iptables",
             f"--hostname-override={self.name}", f"--cluster-cidr={self.network.pods}", "--conntrack-max-per-core=0"],
        )  # fmt: skip

    def _spawn(self, name: str, argv: list[object]) -> None:
        self.processes.spawn(f"{self.name}-{name}", self.network.inside(self.name, *argv))

    def _start_containerd(self) -> None:
        ranges = [[{"subnet": self.network.node_pods(self.number)}]]
        ipam = {
            "type": "host-local",
            "dataDir": f"{self.state}/ipam",
            "ranges": ranges,
            "routes": [{"dst": "0.0.0.0/0"}],
        }
        bridge = {
            "type": "bridge",
            "bridge": "cni0",
            "isGateway": True,
            "ipMasq": False,
            "hairpinMode": True,
            "ipam": ipam,
        }
        plugins = [bridge, {"type": "portmap", "capabilities": {"portMappings": True}}]
        conflist = {"cniVersion": "1.0.0", "name": "pods", "plugins": plugins}
        (self.state / "cni/10-pods.conflist").write_text(json.dumps(conflist))
        config = self.state / "containerd.toml"
        config.write_text(
            CONTAINERD.format(
                state=self.state, socket=self.socket, cni=json.dumps(list(CNI_FOLDERS))
            )
        )
        self._spawn("containerd", [bin_dir() / "containerd", "--config", config])
        version = [str(bin_dir() / "ctr"), "-a", str(self.socket), "version"]

        def answers() -> bool:
            return subprocess.run(version, capture_output=True, check=False).returncode == 0

        wait_until(answers, f"containerd of {self.name} does not answer; see {self.processes.logs}")
        self.load(self.pause)

    def _start_kubelet(self) -> None:
        (self.state / "resolv.conf").write_text("nameserver 127.0.0.1\n")
        config = self.state / "kubelet.json"
        config.write_text(json.dumps(self._kubelet_configuration()))
        kubeconfig = self.pki.kubeconfig(self.name)
        self._spawn(
            "kubelet",
            [bin_dir() / "kubelet", f"--config={config}", f"--kubeconfig={kubeconfig}",
             f"--root-dir={self.state}/kubelet", f"--hostname-override={self.name}",
             f"--node-ip={self.network.node_ip(self.number)}"],
        )  # fmt: skip

    def _kubelet_configuration(self) -> Mapping[str, Any]:
        pki = self.pki.folder
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": f"{pki}/ca.crt"},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": f"{pki}/{self.name}.crt",
            "tlsPrivateKeyFile": f"{pki}/{self.name}.key",
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": self._make_cgroups(),
            "failCgroupV1": False,
            "failSwapOn": False,
            "clusterDNS": [self.network.dns_ip],
            "clusterDomain": "cluster.local",
            "resolvConf": f"{self.state}/resolv.conf",
            "containerRuntimeEndpoint": f"unix://{self.socket}",
            # Tests kill the same container again and again: theirs would be a back-off of up to 5
            # minutes.
            "crashLoopBackOff": {"maxContainerRestartPeriod": "1s"},
            "evictionHard": {"memory.available": "100Mi"},
            "imageGCHighThresholdPercent": 100,
            "nodeStatusUpdateFrequency": "4s",
            "podLogsDir": f"{self.state}/logs",
            "volumePluginDir": f"{self.state}/kubelet/plugins",
        }

    def _make_cgroups(self) -> str:
        """Make a cgroup of this node's own, under version 1 (one tree a controller) or 2, and
        return its name.
        """
        name = f"{self.network.bridge}-{self.name}"
        for tree in cgroup_trees():
            (tree / name).mkdir(exist_ok=True)
        return f"/{name}"

    def load(self, *archives: object) -> None:
        """Import OCI archives."""
        for archive in archives:
            self.ctr("images", "import", archive)

    def plug(self, *, connected: bool) -> None:
        self.network.plug(self.name, connected=connected)

    def pid(self, namespace: str, pod: str, container: str | None = None) -> int | None:
        """The host's process id of a pod's running container (its first one by default), or None."""
        label = 'labels."io.kubernetes.{}"=={}'
        wanted = [
            label.format("pod.namespace", namespace),
            label.format("pod.name", pod),
            'labels."io.cri-containerd.kind"==container',
        ]
        if container:
            wanted.append(label.format("container.name", container))
        containers = self.ctr("containers", "ls", "-q", ",".join(wanted)).split()
        for line in self.ctr("tasks", "ls").splitlines()[1:]:
            task, pid, state, *_ = line.split()
            if task in containers and state == "RUNNING":
                return int(pid)
        return None

    def pids(self, namespace: str, pod: str, container: str | None = None) -> list[int]:
        """The host's process ids of every process of that container, its first process first."""
        first = self.pid(namespace, pod, container)
        return (
            []
            if first is None
            else [first, *(pid for pid in cgroup_members(first) if pid != first)]
        )

    def stop_containers(self) -> None:
        ctr = (bin_dir() / "ctr", "-a", self.socket, "-n", "k8s.io")
        for task in attempt(*ctr, "tasks", "ls", "-q").split():
            attempt(*ctr, "tasks", "kill", "-s", "KILL", task)


def cgroup_trees() -> list[Path]:
    """The roots under which a cgroup is made: one under version 2, one a controller under version
    1.
    """
    if (CGROUPS / "cgroup.controllers").exists():
        return [CGROUPS]
    return [folder for folder in CGROUPS.iterdir() if folder.is_dir() and not folder.is_symlink()]


def cgroup_members(pid: int) -> list[int]:
    """The processes in the cgroup of `pid`; empty when it has ended."""
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    except FileNotFoundError:
        return []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        members = CGROUPS / controllers / path.lstrip("/") / "cgroup.procs"
        if path != "/" and members.exists():
            return [int(member) for member in members.read_text().split()]
    return []
