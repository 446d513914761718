"""The cluster's programs, built once from Go modules into a cache keyed by their versions."""

import hashlib
import json
import os
from pathlib import Path

from tests.cluster.machine import Run, say, sh

HERE = Path(__file__).resolve().parent
KUBERNETES = "v1.36.3"  # the same version that kube/go.mod requires
# the oldest that builds them all; another one is not fetched behind the machine's back
GO = "1.26.6"
MODULES = {  # binary: Go package at a version
    "containerd": "github.com/containerd/containerd/v2/cmd/containerd@v2.4.2",
    "containerd-shim-runc-v2": "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2@v2.4.2",
    "ctr": "github.com/containerd/containerd/v2/cmd/ctr@v2.4.2",
    "coredns": "github.com/coredns/coredns@v1.15.0",
    "metrics-server": "sigs.k8s.io/metrics-server/cmd/metrics-server@v0.9.0",
    "helm": "helm.sh/helm/v4/cmd/helm@v4.3.1",
    "kubeconform": "github.com/yannh/kubeconform/cmd/kubeconform@v0.8.0",
}
COMPONENTS = (
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
    "kubectl",
)

PAUSE_C = """
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>
static void stop(int s) { _exit(0); }
static void reap(int s) { while (waitpid(-1, 0, WNOHANG) > 0); }
int main(void) {
  struct sigaction child = {.sa_handler = reap, .sa_flags = SA_NOCLDSTOP};
  signal(SIGINT, stop); signal(SIGTERM, stop); sigaction(SIGCHLD, &child, 0);
  for (;;) pause();
}
"""


def cache_root() -> Path:
    """The folder that keeps what is slow to make: binaries, base images, built images."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "task-service"


def bin_dir() -> Path:
    """The folder of the binaries of exactly these versions; it may not exist yet."""
    pins = json.dumps([KUBERNETES, MODULES], sort_keys=True)
    pins += (HERE / "kube/main.go").read_text() + (HERE / "kube/go.mod").read_text()
    return cache_root() / "cluster" / hashlib.sha256(pins.encode()).hexdigest()[:12] / "bin"


def missing() -> list[str]:
    """The names of the binaries that `build` would have to make."""
    return [
        name for name in ("kube", *MODULES, *COMPONENTS, "pause") if not (bin_dir() / name).exists()
    ]


def build() -> Path:
    """Build what the cache lacks and return the folder of binaries."""
    bins = bin_dir()
    bins.mkdir(parents=True, exist_ok=True)
    env = os.environ | {"GOBIN": str(bins), "GOFLAGS": "-mod=mod", "GOTOOLCHAIN": "local"}
    if not (bins / "kube").exists():
        say(f"building Kubernetes {KUBERNETES}")
        flags = f"-ldflags=-s -w -X k8s.io/component-base/version.gitVersion={KUBERNETES}"
        sh(
            "go",
            "build",
            "-trimpath",
            flags,
            "-o",
            bins / "kube",
            ".",
            run=Run(env=env, cwd=HERE / "kube"),
        )
    for name, package in MODULES.items():
        if not (bins / name).exists():
            say(f"building {package}")
            sh(
                "go",
                "install",
                "-trimpath",
                "-ldflags=-s -w",
                package,
                run=Run(env=env, cwd=Path("/")),
            )
    for name in COMPONENTS:
        if not (bins / name).exists():
            (bins / name).symlink_to("kube")
    if not (bins / "pause").exists():
        sh("gcc", "-static", "-O2", "-x", "c", "-", "-o", bins / "pause", run=Run(input=PAUSE_C))
    return bins
