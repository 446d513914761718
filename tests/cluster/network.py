"""Addresses, the bridge and the network namespaces of one cluster; ten clusters fit on a machine."""

from dataclasses import dataclass

from tests.cluster.machine import attempt, sh

NODE_NUMBERS = range(1, 10)


@dataclass(frozen=True)
class Network:
    """The network of cluster `number` (0 to 9): nothing in it is shared with another number's."""

    number: int

    @property
    def bridge(self) -> str:
        """The bridge's name, and the prefix of the network namespaces and cgroups."""
        return f"taskcluster{self.number}"

    @property
    def host_ip(self) -> str:
        return f"10.210.{self.number}.1"

    @property
    def control_ip(self) -> str:
        return f"10.210.{self.number}.2"

    @property
    def services(self) -> str:
        return f"10.{96 + self.number}.0.0/16"

    @property
    def api_ip(self) -> str:
        return f"10.{96 + self.number}.0.1"

    @property
    def dns_ip(self) -> str:
        return f"10.{96 + self.number}.0.10"

    @property
    def pods(self) -> str:
        return f"10.{211 + self.number}.0.0/16"

    def node_ip(self, node: int) -> str:
        return f"10.210.{self.number}.{10 + node}"

    def node_pods(self, node: int) -> str:
        return f"10.{211 + self.number}.{node}.0/24"

    def cable(self, place: str) -> str:
        """The bridge's end of the cable to a namespace; an interface's name has 15 characters at
        most.
        """
        return f"tc{self.number}-{place}"

    def inside(self, place: str, *argv: object) -> list[str]:
        """The argument list that runs argv in the network of "control" or of a node.

        `ip netns exec` would unshare mounts too, and the kubelet's mounts would miss the pods.
        """
        return ["nsenter", f"--net=/run/netns/{self.bridge}-{place}", *map(str, argv)]

    def create(self) -> None:
        """Make the bridge, this machine's routes to pods and Services, and the control plane's
        namespace.
        """
        sh("ip", "link", "add", self.bridge, "type", "bridge")
        sh("ip", "addr", "add", f"{self.host_ip}/24", "dev", self.bridge)
        sh("ip", "link", "set", self.bridge, "up")
        self._route(self.services, self.node_ip(1))  # node-1's kube-proxy serves this machine
        for node in NODE_NUMBERS:
            self._route(self.node_pods(node), self.node_ip(node))
        self.add("control", self.control_ip)

    def _route(self, target: str, via: str) -> None:
        sh("ip", "route", "replace", target, "via", via, "dev", self.bridge, "onlink")

    def add(self, place: str, address: str) -> None:
        """Make a network namespace on the bridge, with routes to every node's pods."""
        netns, cable = f"{self.bridge}-{place}", self.cable(place)
        sh("ip", "netns", "add", netns)
        sh("ip", "link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", netns)
        sh("ip", "link", "set", cable, "master", self.bridge, "up")
        sh("ip", "-n", netns, "addr", "add", f"{address}/24", "dev", "eth0")
        sh("ip", "-n", netns, "link", "set", "eth0", "up")
        sh("ip", "-n", netns, "link", "set", "lo", "up")
        sh("ip", "-n", netns, "route", "add", "default", "via", self.host_ip)
        for node in NODE_NUMBERS:
            if address != self.node_ip(node):
                sh(
                    "ip",
                    "-n",
                    netns,
                    "route",
                    "add",
                    self.node_pods(node),
                    "via",
                    self.node_ip(node),
                )
        sh(*self.inside(place, "sysctl", "-qw", "net.ipv4.ip_forward=1"))
        attempt(*self.inside(place, "sysctl", "-qw", "net.bridge.bridge-nf-call-iptables=1"))

    def plug(self, place: str, *, connected: bool) -> None:
        """Take a namespace's cable out or put it back. Its processes go on running."""
        sh("ip", "link", "set", self.cable(place), "up" if connected else "down")

    def has(self, place: str) -> bool:
        """Whether a namespace's cable is there: what a killed run left may be half of a cluster."""
        return bool(attempt("ip", "-br", "link", "show", self.cable(place)))

    def remove(self) -> None:
        """Remove every namespace and interface of this cluster; what is not there is no error."""
        for line in attempt("ip", "netns", "list").splitlines():
            if line.startswith(f"{self.bridge}-"):
                attempt("ip", "netns", "del", line.split()[0])
        for line in attempt("ip", "-br", "link").splitlines():
            if line.startswith(self.cable("")):
                attempt("ip", "link", "del", line.split()[0].split("@")[0])
        attempt("ip", "link", "del", self.bridge)
