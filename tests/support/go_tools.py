"""Programs that tests need and Debian does not have, built once from their Go modules into a cache
keyed by version.

`python3 -m tests.support.go_tools` builds them all and prints the folder. A module is built as its
authors do, in its own folder: with its own replacements, and with the checksums of its own go.sum.
"""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.binaries import cache_root
from tests.cluster.machine import Run, say, sh


@dataclass(frozen=True)
class Tool:
    """A program: its module at a version, and the package in it."""

    name: str
    module: str
    version: str
    package: str

    @property
    def path(self) -> Path:
        """Where the binary is once it is built."""
        return cache_root() / "tools" / f"{self.name}-{self.version}"


JAEGER = Tool("jaeger", "github.com/jaegertracing/jaeger", "v1.76.0", "./cmd/all-in-one")
ACTIONLINT = Tool("actionlint", "github.com/rhysd/actionlint", "v1.7.12", "./cmd/actionlint")
TOOLS = (ACTIONLINT, JAEGER)


def missing() -> list[Tool]:
    """The tools that are not built yet."""
    return [tool for tool in TOOLS if not tool.path.exists()]


def obstacles(tool: Tool) -> list[str]:
    """Why the tool is not here and cannot be built; empty when it is or can."""
    if tool.path.exists() or shutil.which("go"):
        return []
    return [
        f"{tool.name} is not built, and there is no Go to build it with (make machine installs one as root)"
    ]


def build(tool: Tool) -> Path:
    """Build the tool unless it is in the cache. Jaeger takes four minutes of two cores."""
    if tool.path.exists():
        return tool.path
    say(f"building {tool.module} {tool.version}")
    env = os.environ | {"GOTOOLCHAIN": "local", "GOFLAGS": "-mod=readonly"}
    found = sh(
        "go",
        "mod",
        "download",
        "-json",
        f"{tool.module}@{tool.version}",
        run=Run(env=env, cwd=Path("/")),
    )
    folder = Path(json.loads(found)["Dir"])
    tool.path.parent.mkdir(parents=True, exist_ok=True)
    # A build that is stopped leaves nothing that looks like the tool.
    half = tool.path.with_name(f"{tool.path.name}.{os.getpid()}")
    sh(
        "go",
        "build",
        "-trimpath",
        "-ldflags=-s -w",
        "-o",
        half,
        tool.package,
        run=Run(env=env, cwd=folder),
    )
    half.rename(tool.path)
    return tool.path


if __name__ == "__main__":
    for each in TOOLS:
        build(each)
    print(JAEGER.path.parent)
