"""Print the image tags of this commit.

The tags are the short SHA (always), `latest` on main, and the version and `latest` on a release
tag. A pre-release (v1.2.3-rc.1) gets no `latest`. The reference comes from GITHUB_REF or from git.
`--version` prints the version of the charts instead.
"""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RELEASE = re.compile(r"refs/tags/v(\d+\.\d+\.\d+)(-[0-9A-Za-z.-]+)?")


def tags_of(ref: str, sha: str) -> list[str]:
    """Return the tags of a commit under this full reference.

    >>> tags_of("refs/tags/v1.2.3", "0123456789abcdef")
    ['1.2.3', 'latest', '0123456']
    >>> tags_of("refs/tags/v1.2.3-rc.1", "0123456789abcdef")
    ['1.2.3-rc.1', '0123456']
    >>> tags_of("refs/heads/main", "0123456789abcdef")
    ['latest', '0123456']
    >>> tags_of("refs/pull/7/merge", "0123456789abcdef")
    ['0123456']
    """
    short = sha[:7]
    if found := RELEASE.fullmatch(ref):
        number, pre = found.groups()
        return [f"{number}{pre}", short] if pre else [number, "latest", short]
    return ["latest", short] if ref == "refs/heads/main" else [short]


def chart_version(ref: str, sha: str, declared: str) -> str:
    """Return the chart version. Raises ValueError if the tag and pyproject.toml disagree.

    >>> chart_version("refs/tags/v1.2.3", "0123456789abcdef", "1.2.3")
    '1.2.3'
    >>> chart_version("refs/heads/main", "0123456789abcdef", "1.2.3")
    '1.2.3-sha-0123456'
    """
    if not RELEASE.fullmatch(ref):
        return f"{declared}-sha-{sha[:7]}"
    version = tags_of(ref, sha)[0]
    if version.partition("-")[0] != declared:
        raise ValueError(
            f"the tag names version {version}, but pyproject.toml has {declared}: "
            "bump the version before you create the tag"
        )
    return version


def _git(*words: str) -> str:
    return subprocess.run(
        ["git", *words], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()


def current_commit() -> tuple[str, str]:
    """Return the reference and commit to build: those of the workflow, or those checked out."""
    sha = os.environ.get("GITHUB_SHA") or _git("rev-parse", "HEAD")
    if ref := os.environ.get("GITHUB_REF"):
        return ref, sha
    tags = [
        tag
        for tag in _git("tag", "--points-at", "HEAD").split()
        if RELEASE.fullmatch(f"refs/tags/{tag}")
    ]
    return (f"refs/tags/{tags[0]}" if tags else _git("symbolic-ref", "-q", "HEAD")), sha


def main() -> None:
    """Print the tags, one per line, or the version of the charts."""
    ref, sha = current_commit()
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    try:
        version = chart_version(ref, sha, declared)
    except ValueError as error:
        raise SystemExit(str(error)) from None
    print(version if "--version" in sys.argv else "\n".join(tags_of(ref, sha)))


if __name__ == "__main__":
    main()
