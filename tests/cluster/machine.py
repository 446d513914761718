"""What a machine needs to carry a cluster, and running its commands."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

PACKAGES = "runc containernetworking-plugins iptables conntrack iproute2 buildah debootstrap gcc openssl procps"
NEEDED = {  # command: Debian package
    "runc": "runc",
    "iptables": "iptables",
    "conntrack": "conntrack",
    "ip": "iproute2",
    "openssl": "openssl",
    "nsenter": "util-linux",
    "pgrep": "procps",
}
CNI_FOLDERS = ("/usr/lib/cni", "/opt/cni/bin")


@dataclass(frozen=True)
class Run:
    """How `sh` runs a command: its input, folder and environment, and whether a failure is an
    error.
    """

    input: str | None = None
    cwd: Path | None = None
    env: Mapping[str, str] | None = None
    check: bool = True


def sh(*argv: object, run: Run | None = None) -> str:
    """Run a command and return its standard output; a failure raises SystemExit with the end of its
    standard error.
    """
    run = run or Run()
    words = [str(word) for word in argv]
    done = subprocess.run(
        words,
        text=True,
        capture_output=True,
        input=run.input,
        env=run.env,
        cwd=run.cwd,
        check=False,
    )
    if run.check and done.returncode:
        raise SystemExit(f"cluster: {' '.join(words)}: {done.stderr.strip()[-2000:]}")
    return done.stdout


def attempt(*argv: object) -> str:
    """Run a command whose failure is an answer too; return its standard output."""
    return sh(*argv, run=Run(check=False))


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def obstacles() -> list[str]:
    """Why this machine cannot run a cluster, one reason an entry; empty when it can."""
    reasons = []
    if sys.platform != "linux":
        return [f"a cluster needs Linux, this is {sys.platform}"]
    if os.geteuid() != 0:
        reasons.append("a cluster needs root (network namespaces, mounts, cgroups)")
    absent = [
        f"{command} (Debian package {package})"
        for command, package in NEEDED.items()
        if not shutil.which(command)
    ]
    if not any((Path(folder) / "bridge").exists() for folder in CNI_FOLDERS):
        absent.append("CNI plugins (Debian package containernetworking-plugins)")
    return reasons + [f"{what} is not installed" for what in absent]
