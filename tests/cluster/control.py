"""The control plane: etcd, API server, controller manager, scheduler, and beside them DNS and
metrics.
"""

import json
from pathlib import Path
from typing import Any

from tests.cluster.authority import Authority
from tests.cluster.binaries import bin_dir
from tests.cluster.machine import Run, attempt, sh
from tests.cluster.network import Network
from tests.cluster.processes import Processes, wait_until

ETCD = "http://127.0.0.1:2379"
# Every write with its user, as JSON lines: tests count what a component writes.
AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived", "ResponseStarted"],
    "rules": [
        {"level": "Metadata", "verbs": ["create", "update", "patch", "delete", "deletecollection"]},
        {"level": "None"},
    ],
}


class ControlPlane:
    """The processes in the namespace "control"."""

    def __init__(self, state: Path, network: Network) -> None:
        self.state, self.network = state, network
        self.pki, self.processes = Authority(state / "pki", network), Processes(state)
        self.kubeconfig = state / "pki/admin.kubeconfig"
        self.audit_log = state / "audit.log"

    def kubectl(self, *argv: object, input: str | None = None) -> str:
        return sh(
            bin_dir() / "kubectl", "--kubeconfig", self.kubeconfig, *argv, run=Run(input=input)
        )

    def ask(self, *argv: object) -> str:
        """Run kubectl where a failure is an answer too."""
        return attempt(bin_dir() / "kubectl", "--kubeconfig", self.kubeconfig, *argv)

    def start(self) -> None:
        """Start etcd, the API server, the controllers and the scheduler; return when the API server
        is ready.
        """
        self.pki.kubeconfig("admin")
        bins = bin_dir()
        self._spawn(
            "etcd",
            [bins / "etcd", "--data-dir", self.state / "etcd", "--unsafe-no-fsync", "--listen-peer-urls=http://127.0.0.1:2380",
             f"--listen-client-urls={ETCD}", f"--advertise-client-urls={ETCD}"],
        )  # fmt: skip
        self._spawn("kube-apiserver", [bins / "kube-apiserver", *self._api_server_flags()])
        wait_until(
            lambda: self.ask("get", "--raw", "/readyz") == "ok",
            f"the API server is not ready; see {self.processes.logs}",
        )
        self._spawn(
            "kube-controller-manager",
            [bins / "kube-controller-manager", f"--kubeconfig={self.pki.kubeconfig('kube-controller-manager')}",
             f"--service-account-private-key-file={self.pki.folder}/sa.key", f"--root-ca-file={self.pki.folder}/ca.crt",
             "--use-service-account-credentials", "--leader-elect=false", "--horizontal-pod-autoscaler-sync-period=5s",
             "--horizontal-pod-autoscaler-initial-readiness-delay=5s",
             "--horizontal-pod-autoscaler-cpu-initialization-period=20s"],
        )  # fmt: skip
        self._spawn(
            "kube-scheduler",
            [
                bins / "kube-scheduler",
                f"--kubeconfig={self.pki.kubeconfig('kube-scheduler')}",
                "--leader-elect=false",
            ],
        )
        self.pki.kubeconfig("kube-proxy")

    def _spawn(self, name: str, argv: list[object]) -> None:
        self.processes.spawn(name, self.network.inside("control", *argv))

    def _api_server_flags(self) -> list[str]:
        pki, network = self.pki.folder, self.network
        policy = self.state / "audit-policy.json"
        policy.write_text(json.dumps(AUDIT_POLICY))
        return [
            f"--etcd-servers={ETCD}", "--secure-port=6443", f"--advertise-address={network.control_ip}",
            f"--service-cluster-ip-range={network.services}",
            f"--tls-cert-file={pki}/apiserver.crt", f"--tls-private-key-file={pki}/apiserver.key",
            f"--client-ca-file={pki}/ca.crt",
            f"--service-account-key-file={pki}/sa.pub", f"--service-account-signing-key-file={pki}/sa.key",
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            "--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction", "--allow-privileged=true",
            "--kubelet-preferred-address-types=InternalIP", "--enable-aggregator-routing=true",
            f"--kubelet-client-certificate={pki}/admin.crt", f"--kubelet-client-key={pki}/admin.key",
            f"--requestheader-client-ca-file={pki}/ca.crt", "--requestheader-allowed-names=front-proxy",
            "--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group",
            "--requestheader-extra-headers-prefix=X-Remote-Extra-",
            f"--proxy-client-cert-file={pki}/front-proxy.crt", f"--proxy-client-key-file={pki}/front-proxy.key",
            f"--audit-policy-file={policy}", f"--audit-log-path={self.audit_log}",
        ]  # fmt: skip

    def start_dns(self) -> None:
        corefile = self.state / "Corefile"
        kubernetes = f"kubernetes cluster.local {{\n  kubeconfig {self.kubeconfig} default\n }}"
        plugins = (f"bind {self.network.control_ip}", "errors", kubernetes, "cache 5")
        corefile.write_text(".:53 {\n" + "".join(f" {plugin}\n" for plugin in plugins) + "}\n")
        self._spawn("coredns", [bin_dir() / "coredns", "-conf", corefile])
        self._external_service(
            "kube-dns", {"name": "udp", "port": 53, "protocol": "UDP"}, 53, self.network.dns_ip
        )

    def start_metrics(self) -> None:
        """Start metrics-server and register its API; the first figures come some 10 s later."""
        self._spawn(
            "metrics-server",
            [bin_dir() / "metrics-server", f"--kubeconfig={self.kubeconfig}",
             f"--authentication-kubeconfig={self.kubeconfig}", f"--authorization-kubeconfig={self.kubeconfig}",
             "--secure-port=10443", f"--cert-dir={self.state}/metrics", "--kubelet-insecure-tls",
             "--kubelet-preferred-address-types=InternalIP", "--metric-resolution=10s", "--kubelet-request-timeout=5s"],
        )  # fmt: skip
        self._external_service(
            "metrics-server", {"name": "tcp", "port": 443, "protocol": "TCP"}, 10443, None
        )
        service = {"name": "metrics-server", "namespace": "kube-system"}
        priorities = {"groupPriorityMinimum": 100, "versionPriority": 100}
        self._apply(
            {
                "apiVersion": "apiregistration.k8s.io/v1",
                "kind": "APIService",
                "metadata": {"name": "v1beta1.metrics.k8s.io"},
                "spec": {
                    "group": "metrics.k8s.io",
                    "version": "v1beta1",
                    "insecureSkipTLSVerify": True,
                    "service": service,
                }
                | priorities,
            }
        )

    def metrics_ready(self) -> bool:
        return bool(self.ask("get", "--raw", "/apis/metrics.k8s.io/v1beta1/nodes/node-1"))

    def _external_service(
        self, name: str, port: dict[str, Any], target: int, cluster_ip: str | None
    ) -> None:
        """A Service in kube-system whose one endpoint is a process beside the control plane."""
        spec: dict[str, Any] = {"ports": [port | {"targetPort": target}]}
        if cluster_ip:
            spec["clusterIP"] = cluster_ip
        self._apply(
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": name, "namespace": "kube-system"},
                "spec": spec,
            }
        )
        labels = {"kubernetes.io/service-name": name}
        self._apply(
            {
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": {
                    "name": f"{name}-process",
                    "namespace": "kube-system",
                    "labels": labels,
                },
                "addressType": "IPv4",
                "ports": [port | {"port": target}],
                "endpoints": [{"addresses": [self.network.control_ip]}],
            }
        )

    def _apply(self, manifest: dict[str, Any]) -> None:
        self.kubectl("apply", "-f", "-", input=json.dumps(manifest))
