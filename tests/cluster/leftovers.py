"""What the cluster's programs leave outside its state folder, removed without touching another
cluster's.
"""

import contextlib
import json
import os
import shutil
import socket
from pathlib import Path

from tests.cluster.machine import attempt
from tests.cluster.node import cgroup_trees
from tests.cluster.processes import wait_until

RUNC_STATES = Path("/run/containerd/runc/k8s.io")
CNI_RESULTS = Path("/var/lib/cni/results")
KUBELET_SOCKET = Path("/var/lib/kubelet/device-plugins/kubelet.sock")
LOG_LINKS = Path("/var/log/containers")
FOLDERS = (  # made by the programs whatever their settings are
    *map(
        Path,
        (
            "/run/containerd/s",
            "/run/containerd/runc/k8s.io",
            "/run/containerd/runc",
            "/run/containerd",
        ),
    ),
    *(CNI_RESULTS, CNI_RESULTS.parent, KUBELET_SOCKET.parent, KUBELET_SOCKET.parents[1], LOG_LINKS),
)


def remove_container_traces(state: Path) -> None:
    """Remove the shims' sockets, runc's states and the CNI's results of the containers under
    `state`.
    """
    for task in state.glob("node-*/containerd/run/io.containerd.runtime.v2.task/k8s.io/*"):
        with contextlib.suppress(FileNotFoundError):
            address = json.loads((task / "bootstrap.json").read_text())["address"]
            Path(address.removeprefix("unix://")).unlink(missing_ok=True)
        shutil.rmtree(RUNC_STATES / task.name, ignore_errors=True)
        for result in CNI_RESULTS.glob(f"*-{task.name}-*"):
            result.unlink()


def unmount_below(state: Path) -> None:
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for mount in sorted((m for m in mounts if m.startswith(f"{state}/")), reverse=True):
        attempt("umount", "-l", mount)


def remove_cgroups(prefix: str) -> None:
    for tree in cgroup_trees():
        for top in tree.glob(f"{prefix}-node-*"):
            wait_until(lambda top=top: _remove_tree(top), f"the cgroup {top} is still in use", 10)  # type: ignore[misc]


def _remove_tree(top: Path) -> bool:
    """Remove a tree of cgroups; False while a process that is still ending holds one of them."""
    for folder, _, _ in os.walk(top, topdown=False):
        try:
            Path(folder).rmdir()
        except OSError:
            return False
    return True


def remove_from_shared_folders(state: Path) -> None:
    """Remove this cluster's entries in folders that clusters share, and the folders that are empty
    then.
    """
    for link in LOG_LINKS.glob("*"):
        if link.is_symlink() and link.readlink().is_relative_to(state):
            link.unlink()
    with socket.socket(socket.AF_UNIX) as kubelet:
        try:
            kubelet.connect(str(KUBELET_SOCKET))
        except ConnectionRefusedError:  # no kubelet listens there any more
            KUBELET_SOCKET.unlink()
        except FileNotFoundError:
            pass  # no cluster with nodes has run
    for folder in FOLDERS:
        with contextlib.suppress(OSError):  # absent, or in use by another cluster
            folder.rmdir()
