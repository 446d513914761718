"""Consistency of Dockerfile, compose.yaml, skaffold.yaml and lock files with the code."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts import lint_migrations
from task_service.settings import Settings
from tests.cluster.binaries import bin_dir
from tests.support.skipping import skip_or_fail

ROOT = Path(__file__).resolve().parents[2]
STAGE = re.compile(r"^FROM \S+ AS (\S+)$", re.MULTILINE)
LOCKS = sorted((ROOT / "requirements").glob("*.txt"))


def read(name: str) -> str:
    return (ROOT / name).read_text()


@pytest.fixture
def compose() -> dict[str, Any]:
    return dict(yaml.safe_load(read("compose.yaml")))


@pytest.fixture
def releases() -> list[dict[str, Any]]:
    return list(yaml.safe_load(read("skaffold.yaml"))["deploy"]["helm"]["releases"])


class TestDockerfile:
    def test_targets_include_both_images(self) -> None:
        assert {"service", "operator"} <= set(STAGE.findall(read("Dockerfile")))

    def test_images_run_as_a_numeric_user(self) -> None:
        runtime = read("Dockerfile").split(" AS runtime\n")[1]
        assert re.findall(r"^USER (.*)$", runtime, re.MULTILINE) == ["10001:10001"]

    def test_every_copied_file_is_allowed_by_dockerignore(self) -> None:
        allowed = [line[1:] for line in read(".dockerignore").splitlines() if line.startswith("!")]
        copied = [
            source.rstrip("*")
            for words in re.findall(r"^COPY (?!--from)(.*)$", read("Dockerfile"), re.MULTILINE)
            for source in words.split()[:-1]
        ]
        assert copied
        ignored = [
            source
            for source in copied
            if not any(Path(source).match(pattern) for pattern in allowed)
        ]
        assert ignored == []


class TestCompose:
    def test_compose_file_is_valid(self) -> None:
        tool = Path(sys.executable).with_name("check-jsonschema")
        command = [str(tool), "--builtin-schema", "vendor.compose-spec", str(ROOT / "compose.yaml")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    def test_two_instances_serve_on_ports_12000_and_12001(self, compose: dict[str, Any]) -> None:
        serving = {
            name: part
            for name, part in compose["services"].items()
            if part.get("command") == ["serve"]
        }
        assert sorted(port for part in serving.values() for port in part["ports"]) == [
            "12000:8000",
            "12001:8000",
        ]

    def test_instances_wait_for_migration_and_healthy_stores(self, compose: dict[str, Any]) -> None:
        services = compose["services"]
        for part in (part for part in services.values() if part.get("command") == ["serve"]):
            assert part["depends_on"]["migrate"] == {"condition": "service_completed_successfully"}
            healthy = [
                name
                for name, on in part["depends_on"].items()
                if on["condition"] == "service_healthy"
            ]
            assert healthy == ["postgres", "valkey"]
            assert all("healthcheck" in services[name] for name in healthy)

    def test_every_variable_of_the_service_is_a_setting(self, compose: dict[str, Any]) -> None:
        variables = {
            name
            for part in compose["services"].values()
            if "build" in part
            for name in part["environment"]
        }
        assert variables
        assert variables - {name.upper() for name in Settings.model_fields} == set()

    def test_compose_builds_targets_of_the_dockerfile(self, compose: dict[str, Any]) -> None:
        targets = {
            part["build"]["target"] for part in compose["services"].values() if "build" in part
        }
        assert targets == {"service"}


class TestSkaffold:
    def test_both_images_are_built_from_targets_of_the_dockerfile(self) -> None:
        artifacts = yaml.safe_load(read("skaffold.yaml"))["build"]["artifacts"]
        targets = {artifact["image"]: artifact["docker"]["target"] for artifact in artifacts}
        assert targets == {"task-service": "service", "task-operator": "operator"}
        assert set(targets.values()) <= set(STAGE.findall(read("Dockerfile")))

    def test_each_release_uses_built_images(self, releases: list[dict[str, Any]]) -> None:
        built = {
            artifact["image"]
            for artifact in yaml.safe_load(read("skaffold.yaml"))["build"]["artifacts"]
        }
        for release in releases:
            named = re.findall(
                r"\.IMAGE_(?:REPO|TAG)_(\w+)", " ".join(release["setValueTemplates"].values())
            )
            assert {name.replace("_", "-") for name in named} <= built
            assert len(named) == 2

    def test_charts_accept_the_values(self, releases: list[dict[str, Any]]) -> None:
        helm = shutil.which("helm") or str(bin_dir() / "helm")
        if not Path(helm).exists():
            skip_or_fail(
                "helm is not installed and not in the cluster's binaries "
                "(python3 -m tests.cluster build)"
            )
        for release in releases:
            flags = [f"--values={ROOT / file}" for file in release.get("valuesFiles", [])]
            flags += [f"--set={name}=image-of-skaffold" for name in release["setValueTemplates"]]
            chart = str(ROOT / release["chartPath"])
            command = [helm, "template", release["name"], chart, *flags]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            assert "image-of-skaffold:image-of-skaffold" in done.stdout


class TestLocks:
    @pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
    def test_every_package_has_a_version_and_hashes(self, lock: Path) -> None:
        entries = re.split(r"\n(?=\S)", re.sub(r"(?m)^#.*\n", "", lock.read_text()).strip())
        assert [
            entry for entry in entries if "==" not in entry or "--hash=sha256:" not in entry
        ] == []

    @pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
    def test_lock_files_contain_no_url(self, lock: Path) -> None:
        assert "://" not in lock.read_text()

    @pytest.mark.parametrize("extra", ["service", "operator", "dev"])
    def test_lock_of_an_extra_contains_its_requirements(self, extra: str) -> None:
        project = tomllib.loads(read("pyproject.toml"))["project"]
        required = {
            re.split(r"[\[<>=~!;]", need)[0] for need in project["optional-dependencies"][extra]
        }
        locked = set(
            re.findall(r"(?m)^([a-z0-9-]+)(?:\[.*\])?==", read(f"requirements/{extra}.txt"))
        )
        assert {name.lower() for name in required} - locked - {"task-service"} == set()


class TestMigrationLint:
    def test_dropping_a_column_fails_the_lint(self, tmp_path: Path) -> None:
        script = tmp_path / "0002.sql"
        script.write_text("ALTER TABLE tasks DROP COLUMN title;\n")
        done = lint_migrations.squawk(script)
        assert done.returncode != 0
        assert "ban-drop-column" in done.stdout

    def test_adding_a_nullable_column_passes_the_lint(self, tmp_path: Path) -> None:
        script = tmp_path / "0002.sql"
        script.write_text("ALTER TABLE tasks ADD COLUMN color text;\n")
        assert lint_migrations.squawk(script).returncode == 0

    def test_first_revision_is_linted(self) -> None:
        first = lint_migrations.revisions()[0]
        assert "CREATE TABLE tasks" in lint_migrations.sql("base", first)
