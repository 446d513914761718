"""Workflows run only make targets, and published images have the documented tags."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts.image_tags import chart_version, tags_of
from tests.support import go_tools
from tests.support.jaeger import require_tool

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yaml"))
SHA = "0123456789abcdef"
SETUP_COMMANDS = ("sudo apt-get", "pipx install", "echo ")


def workflow(path: Path) -> dict[Any, Any]:
    return dict(yaml.safe_load(path.read_text()))


def steps() -> list[dict[str, Any]]:
    jobs = [job for path in WORKFLOWS for job in workflow(path)["jobs"].values()]
    return [step for job in jobs for step in job.get("steps", [])]


def test_workflows_run_existing_make_targets() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    commands = [
        step["run"]
        for step in steps()
        if "run" in step and not step["run"].startswith(SETUP_COMMANDS)
    ]
    called = [re.match(r"make ([a-z-]+)", command) for command in commands]
    assert len(commands) > 8
    assert all(called), commands
    assert {found[1] for found in called if found} <= targets


def test_actions_are_pinned_to_exact_versions() -> None:
    used = [step["uses"] for step in steps() if "uses" in step]
    assert not [
        action for action in used if not re.search(r"@(v?\d+\.\d+\.\d+|[0-9a-f]{40})$", action)
    ]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflow_is_read_only_by_default_and_has_a_concurrency_group(path: Path) -> None:
    content = workflow(path)
    assert content["permissions"] == {"contents": "read"}
    assert content["concurrency"]["group"]
    assert all("timeout-minutes" in job for job in content["jobs"].values() if "steps" in job)


def test_images_are_published_only_from_main_and_version_tags() -> None:
    publishing = {path.stem for path in WORKFLOWS if "make push" in path.read_text()}
    assert publishing == {"release"}
    on = workflow(ROOT / ".github/workflows/release.yaml")[True]  # YAML 1.1 reads `on` as a boolean
    assert on == {"push": {"branches": ["main"], "tags": ["v*.*.*"]}}
    assert not re.search(
        r"\b[a-z0-9-]+\.(io|com|dev)/", "".join(path.read_text() for path in WORKFLOWS)
    )


def test_image_tags_match_the_documentation() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text()
    for ref, shown in {"refs/heads/main": "on main", "refs/tags/v1.2.3": "tag `v1.2.3`"}.items():
        names = ", ".join(f"`{tag}`" for tag in tags_of(ref, SHA) if tag != SHA[:7])
        assert f"| {shown} | {names}, the short SHA |" in page


def test_tag_that_contradicts_the_version_is_rejected() -> None:
    with pytest.raises(ValueError, match=r"bump the version"):
        chart_version("refs/tags/v1.2.4", SHA, "1.2.3")


@pytest.mark.parametrize("step", ["scan", "sbom", "sign", "push", "dependency-scan"])
def test_step_without_its_tool_names_the_tool(step: str, tmp_path: Path) -> None:
    for name in ("bash", "dirname", "mkdir", "tr", "env"):
        (tmp_path / name).symlink_to(f"/usr/bin/{name}")
    done = subprocess.run(
        ["/usr/bin/env", "bash", ROOT / "scripts/pipeline", step],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert f"{step.replace('-', '_')} needs" in done.stderr or f"{step} needs" in done.stderr


@pytest.mark.timeout(600)
def test_actionlint_passes() -> None:
    done = subprocess.run(
        [require_tool(go_tools.ACTIONLINT), *WORKFLOWS], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_dependabot_covers_every_ecosystem() -> None:
    config = yaml.safe_load((ROOT / ".github/dependabot.yml").read_text())
    folders = {
        update["package-ecosystem"]: update.get("directories") or [update["directory"]]
        for update in config["updates"]
    }
    assert folders.keys() == {
        "pip", "github-actions", "docker", "docker-compose", "gomod", "helm"
    }  # fmt: skip
    for directories in folders.values():
        for directory in directories:
            assert (ROOT / directory.lstrip("/")).is_dir(), directory
    locks = {f"/{path.parent.relative_to(ROOT)}" for path in ROOT.glob("**/requirements/*.txt")}
    assert {lock for lock in locks if "/." not in lock} <= set(folders["pip"])
    assert {
        f"/{path.parent.relative_to(ROOT)}".removesuffix("/.") or "/"
        for path in ROOT.glob("charts/*/Chart.yaml")
    } == set(folders["helm"])
