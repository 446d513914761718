"""The files that bundle the product (Dockerfile, compose.yaml, skaffold.yaml, locks) fit together and fit the code."""

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
    def test_its_targets_are_the_two_images(self) -> None:
        assert {"service", "operator"} <= set(STAGE.findall(read("Dockerfile")))

    def test_the_images_run_as_a_user_with_a_number(self) -> None:
        runtime = read("Dockerfile").split(" AS runtime\n")[1]
        assert re.findall(r"^USER (.*)$", runtime, re.MULTILINE) == ["10001:10001"]

    def test_all_that_it_copies_is_let_through_by_dockerignore(self) -> None:
        let_through = [
            line[1:] for line in read(".dockerignore").splitlines() if line.startswith("!")
        ]
        copied = [
            source.rstrip("*")
            for words in re.findall(r"^COPY (?!--from)(.*)$", read("Dockerfile"), re.MULTILINE)
            for source in words.split()[:-1]
        ]
        assert copied
        refused = [
            source
            for source in copied
            if not any(Path(source).match(pattern) for pattern in let_through)
        ]
        assert refused == []


class TestCompose:
    def test_it_is_valid_by_the_compose_specification(self) -> None:
        tool = Path(sys.executable).with_name("check-jsonschema")
        argv = [tool, "--builtin-schema", "vendor.compose-spec", ROOT / "compose.yaml"]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
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

    def test_instances_start_after_the_migration_and_healthy_stores(
        self, compose: dict[str, Any]
    ) -> None:
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
        given = {
            name
            for part in compose["services"].values()
            if "build" in part
            for name in part["environment"]
        }
        assert given
        assert given - {name.upper() for name in Settings.model_fields} == set()

    def test_it_builds_targets_of_the_dockerfile(self, compose: dict[str, Any]) -> None:
        targets = {
            part["build"]["target"] for part in compose["services"].values() if "build" in part
        }
        assert targets == {"service"}


class TestSkaffold:
    def test_it_builds_both_images_from_targets_of_the_dockerfile(self) -> None:
        artifacts = yaml.safe_load(read("skaffold.yaml"))["build"]["artifacts"]
        targets = {artifact["image"]: artifact["docker"]["target"] for artifact in artifacts}
        assert targets == {"task-service": "service", "task-operator": "operator"}
        assert set(targets.values()) <= set(STAGE.findall(read("Dockerfile")))

    def test_each_release_uses_an_image_that_is_built(self, releases: list[dict[str, Any]]) -> None:
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

    def test_its_values_are_taken_by_the_charts(self, releases: list[dict[str, Any]]) -> None:
        helm = shutil.which("helm") or str(bin_dir() / "helm")
        if not Path(helm).exists():
            skip_or_fail(
                "helm is not installed, and the cluster's binaries are not built (python3 -m tests.cluster build)"
            )
        for release in releases:
            flags = [f"--values={ROOT / file}" for file in release.get("valuesFiles", [])]
            flags += [f"--set={name}=image-of-skaffold" for name in release["setValueTemplates"]]
            argv = [helm, "template", release["name"], ROOT / release["chartPath"], *flags]
            done = subprocess.run(argv, capture_output=True, text=True, check=False)
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
    def test_no_address_is_recorded(self, lock: Path) -> None:
        assert "://" not in lock.read_text()

    @pytest.mark.parametrize("extra", ["service", "operator", "dev"])
    def test_the_lock_of_an_extra_has_all_that_it_asks_for(self, extra: str) -> None:
        project = tomllib.loads(read("pyproject.toml"))["project"]
        asked = {
            re.split(r"[\[<>=~!;]", need)[0] for need in project["optional-dependencies"][extra]
        }
        locked = set(
            re.findall(r"(?m)^([a-z0-9-]+)(?:\[.*\])?==", read(f"requirements/{extra}.txt"))
        )
        assert {name.lower() for name in asked} - locked - {"task-service"} == set()


class TestMigrationLint:
    def test_dropping_a_column_is_refused(self, tmp_path: Path) -> None:
        script = tmp_path / "0002.sql"
        script.write_text("ALTER TABLE tasks DROP COLUMN title;\n")
        done = lint_migrations.squawk(script)
        assert done.returncode != 0
        assert "ban-drop-column" in done.stdout

    def test_adding_a_nullable_column_is_fine(self, tmp_path: Path) -> None:
        script = tmp_path / "0002.sql"
        script.write_text("ALTER TABLE tasks ADD COLUMN color text;\n")
        assert lint_migrations.squawk(script).returncode == 0

    def test_every_revision_is_read(self) -> None:
        first = lint_migrations.revisions()[0]
        assert "CREATE TABLE tasks" in lint_migrations.sql("base", first)
