"""Builds the images that the cluster runs, as OCI archives: `python -m tests.support.images build`.

An archive holds a group of images, which share their layers: `base` (PostgreSQL, Valkey), `service`
(version 1, the same with test handlers, versions 2 and 3 with a migration each) and `operator`. Its
name carries a hash of everything that it was made from, so an unchanged group is not built again.
"""

import argparse
import fcntl
import hashlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.binaries import MODULES, bin_dir, build, cache_root

ROOT = Path(__file__).resolve().parents[2]
BASE_IMAGES = ROOT / "tests/cluster/images.sh"
PYTHON = "localhost/python:3.13-slim-trixie"
HELM = f"localhost/helm:{MODULES['helm'].rpartition('@')[2]}"
SERVICE, OPERATOR = "localhost/task-service", "localhost/task-operator"
BUILDAH = ("buildah", "--storage-driver", "overlay")
CERTIFICATES = Path("/etc/ssl/certs")  # builds trust the package indexes that this machine trusts
KEPT_ARCHIVES = (
    2  # of each group: the current one, and the one that another checkout may be loading
)


@dataclass(frozen=True)
class Group:
    """Images of one archive: their names, what they are made from, and how."""

    images: tuple[str, ...]
    inputs: tuple[str, ...]
    make: Callable[[], None]


def run(*argv: object) -> str:
    """Run a command and return its output; a failure raises RuntimeError with the end of what it
    said.
    """
    words = [str(word) for word in argv]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {(done.stdout + done.stderr).strip()[-3000:]}")
    return done.stdout


def has_image(name: str) -> bool:
    return (
        subprocess.run(
            [*BUILDAH, "inspect", "--type", "image", name], capture_output=True, check=False
        ).returncode
        == 0
    )


def make_base_images(*names: str) -> None:
    run(BASE_IMAGES, *names)


def make_helm_image() -> None:
    """An image with the cluster's own helm, instead of building helm from source in the Dockerfile."""
    if has_image(HELM):
        return
    build()
    container = run(*BUILDAH, "from", "scratch").strip()
    run(*BUILDAH, "add", "-q", container, bin_dir() / "helm", "/out/helm")
    run(*BUILDAH, "commit", "-q", "--rm", container, HELM)


def build_target(context: Path, target: str, tag: str, **arguments: str) -> None:
    """Build one target of the Dockerfile in `context`; layers whose inputs are unchanged come from
    buildah's cache.
    """
    options: list[object] = [
        "--isolation",
        "chroot",
        "--layers",
        "--quiet",
        "--target",
        target,
        "--tag",
        tag,
    ]
    if CERTIFICATES.is_dir():
        options += ["--volume", f"{CERTIFICATES}:{CERTIFICATES}:ro"]
    for name, value in arguments.items():
        options += ["--build-arg", f"{name}={value}"]
    run(*BUILDAH, "bud", *options, context)


def make_service() -> None:
    make_base_images("python")
    build_target(ROOT, "service", f"{SERVICE}:1", BASE_IMAGE=PYTHON, HELM_IMAGE=PYTHON)
    for target, tag in {"test": "1-test", "two": "2", "three": "3"}.items():
        build_target(
            ROOT / "tests/images", target, f"{SERVICE}:{tag}", SERVICE_IMAGE=f"{SERVICE}:1"
        )


def make_operator() -> None:
    make_base_images("python")
    make_helm_image()
    build_target(ROOT, "operator", f"{OPERATOR}:1", BASE_IMAGE=PYTHON, HELM_IMAGE=HELM)


SOURCES = (
    "Dockerfile",
    ".dockerignore",
    "pyproject.toml",
    "README.md",
    "requirements/build.txt",
    "service",
    "operator",
)
GROUPS = {
    "base": Group(
        images=("localhost/postgres:17", "localhost/valkey:8"),
        inputs=("tests/cluster/images.sh",),
        make=lambda: make_base_images("postgres", "valkey"),
    ),
    "service": Group(
        images=tuple(f"{SERVICE}:{tag}" for tag in ("1", "1-test", "2", "3")),
        inputs=(*SOURCES, "requirements/service.txt", "tests/images", "tests/cluster/images.sh"),
        make=make_service,
    ),
    "operator": Group(
        images=(f"{OPERATOR}:1",),
        inputs=(
            *SOURCES,
            "requirements/operator.txt",
            "charts/task-service",
            "tests/cluster/images.sh",
        ),
        make=make_operator,
    ),
}


def digest_of(inputs: Iterable[str]) -> str:
    """A hash of the files and folders, by name and content; caches of Python are no input."""
    digest = hashlib.sha256(" ".join(MODULES.values()).encode())
    for name in inputs:
        top = ROOT / name
        for path in sorted(top.rglob("*")) if top.is_dir() else [top]:
            if path.is_file() and "__pycache__" not in path.parts:
                digest.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def archive(name: str) -> Path:
    """The group's archive, built if there is none for the sources as they are now."""
    group = GROUPS[name]
    folder = cache_root() / "archives"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{digest_of(group.inputs)}.tar"
    with _locked(folder / ".lock"):  # one build at a time: they share tags
        if not path.exists():
            group.make()
            _write_archive(group.images, path)
        path.touch()
        for old in sorted(folder.glob(f"{name}-*.tar"), key=lambda file: file.stat().st_mtime)[
            :-KEPT_ARCHIVES
        ]:
            old.unlink()
    return path


def archives(*names: str) -> list[Path]:
    """The archives of the groups, of all by default."""
    return [archive(name) for name in names or GROUPS]


def _write_archive(images: Iterable[str], path: Path) -> None:
    """Write the images as one OCI layout, where a layer that they share lies once."""
    with tempfile.TemporaryDirectory(dir=path.parent) as layout:
        for image in images:
            run(
                *BUILDAH,
                "push",
                "--quiet",
                "--compression-format",
                "zstd",
                image,
                f"oci:{layout}:{image}",
            )
        unfinished = path.with_suffix(".part")
        run("tar", "-C", layout, "-cf", unfinished, ".")
        unfinished.rename(path)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def obstacles() -> list[str]:
    """Why images cannot be built here; empty when they can."""
    tools = {"buildah": "buildah", "debootstrap": "debootstrap"}
    return [
        f"{tool} (Debian package {package}) is not installed"
        for tool, package in tools.items()
        if not shutil.which(tool)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.support.images", description=(__doc__ or "").partition("\n")[0]
    )
    commands = parser.add_subparsers(dest="command", required=True)
    chosen = commands.add_parser("build", help="build what changed and print the archives' paths")
    chosen.add_argument(
        "groups", nargs="*", metavar="GROUP", help=f"of {', '.join(GROUPS)} (default: all)"
    )
    args = parser.parse_args()
    if unknown := set(args.groups) - GROUPS.keys():
        parser.error(f"no group {', '.join(sorted(unknown))}; there are {', '.join(GROUPS)}")
    if reasons := obstacles():
        raise SystemExit("images: " + "; ".join(reasons))
    try:
        print(*archives(*args.groups), sep="\n")
    except RuntimeError as failure:
        sys.exit(f"images: {failure}")


if __name__ == "__main__":
    main()
