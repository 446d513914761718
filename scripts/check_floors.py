"""Check that the declared version floors are installed, and that every module can be imported.

`scripts/test-lowest` runs it in an environment that has the lowest allowed versions. A floor below
the installed version would be untested.
"""

import importlib
import pkgutil
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("task_service", "task_operator")
NOT_IMPORTABLE = ("task_service.migrations.env",)  # Alembic runs it with a context


def requirements() -> Iterator[Requirement]:
    """List the base dependencies and those of every extra, without the project itself."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for group in [project["dependencies"], *project["optional-dependencies"].values()]:
        for text in group:
            requirement = Requirement(text)
            if requirement.name != project["name"]:
                yield requirement


def check_floor(requirement: Requirement) -> str | None:
    """Return a message if the floor is missing or is not the installed version."""
    installed = Version(version(requirement.name))
    floors = {Version(part.version) for part in requirement.specifier if part.operator == ">="}
    if floors == {installed}:
        return None
    return f"{requirement}: lowest installable version is {installed}; declare that one"


def import_modules() -> None:
    """Import every module of both packages. Raises the error of the first one that fails."""
    for name in PACKAGES:
        package = importlib.import_module(name)
        for module in pkgutil.walk_packages(package.__path__, f"{name}."):
            if module.name not in NOT_IMPORTABLE:
                importlib.import_module(module.name)


def main() -> int:
    """Run both checks."""
    messages = sorted({text for text in map(check_floor, requirements()) if text})
    print(*messages, sep="\n", end="\n" if messages else "")
    import_modules()
    return 1 if messages else 0


if __name__ == "__main__":
    sys.exit(main())
