"""An environment for each product, made from its hashed lock in the cache folder, and kept until
the lock changes.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

from bench.rivals.catalogue import Product

LOCKS = Path(__file__).parent / "requirements"
ASK = "import sys; print(*sys.version_info[:2])"


class MissingError(Exception):
    """The product cannot be installed here; the message says why."""


def python_of(product: Product) -> Path:
    """The interpreter that runs the product's adaptor. Raises MissingError."""
    if product.requirements is None:
        return Path(sys.executable)
    lock = LOCKS / f"{product.requirements}.txt"
    base = interpreter(product.minimum_python)
    digest = hashlib.sha256(lock.read_bytes() + str(base).encode()).hexdigest()[:12]
    folder = cache_folder() / f"{product.requirements}-{digest}"
    python = folder / "bin" / "python"
    if not (folder / ".complete").exists():
        shutil.rmtree(folder, ignore_errors=True)
        _run("uv", "venv", "--quiet", "--no-python-downloads", "--python", str(base), str(folder))
        _run(
            "uv",
            "pip",
            "install",
            "--quiet",
            "--require-hashes",
            "--python",
            str(python),
            "-r",
            str(lock),
        )
        (folder / ".complete").touch()
    return python


def versions_of(product: Product) -> dict[str, str]:
    """The product's own version, from the first line of its requirements, and its interpreter's."""
    python = ".".join(map(str, _version(python_of(product)) or ()))
    if product.requirements is None:
        return {"python": python}
    wanted = (LOCKS / f"{product.requirements}.in").read_text().split("[")[0].split(">")[0].strip()
    pins = (line.split(" ")[0].split("==") for line in _lock_lines(product.requirements))
    return {"version": next(version for name, version in pins if name == wanted), "python": python}


def _lock_lines(name: str) -> list[str]:
    return [line for line in (LOCKS / f"{name}.txt").read_text().splitlines() if "==" in line]


def cache_folder() -> Path:
    """Where the environments are kept."""
    root = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return root / "task-service" / "rivals"


@cache
def interpreter(least: tuple[int, int]) -> Path:
    """Our own interpreter if it is new enough, else the oldest on this machine that is. Raises
    MissingError.
    """
    if sys.version_info[:2] >= least:
        return Path(sys.executable).resolve()
    named = (shutil.which(f"python3.{minor}") for minor in range(least[1], least[1] + 5))
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for path in [
        *(Path(found) for found in named if found),
        *sorted(pyenv.glob("3.*/bin/python3")),
    ]:
        version = _version(path)
        if version is not None and version >= least:
            return path
    raise MissingError(f"needs Python {least[0]}.{least[1]}, and this machine has none")


def _version(python: Path) -> tuple[int, int] | None:
    done = subprocess.run([str(python), "-c", ASK], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return None
    major, minor = map(int, done.stdout.split())
    return major, minor


def _run(*argv: str) -> None:
    program = Path(sys.executable).parent / argv[0]
    done = subprocess.run([str(program), *argv[1:]], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise MissingError(f"cannot be installed: {done.stderr.strip().splitlines()[-1]}")
