"""Console scripts handle SIGTERM from their first line on."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

PYPROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"
SCRIPTS = tomllib.loads(PYPROJECT.read_text())["project"]["scripts"]
COMMANDS = {"task-service": "task_service.cli", "task-operator": "task_operator.process.cli"}
SLOW = {"typer", "pydantic", "kopf", "fastapi", "sqlalchemy", "asyncio"}


@pytest.mark.parametrize("script", sorted(SCRIPTS))
def test_no_slow_module_is_imported_before_sigterm_is_handled(script: str) -> None:
    module = SCRIPTS[script].partition(":")[0]
    program = f"import sys, {module}; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.split()
    assert module in loaded
    assert not SLOW & set(loaded)


@pytest.mark.parametrize("script", sorted(SCRIPTS))
def test_sigterm_during_imports_ends_the_process(script: str) -> None:
    module, commands = SCRIPTS[script].partition(":")[0], COMMANDS[script]
    program = (
        f"import os, signal, sys, types, {module}; "
        f"commands = types.ModuleType('{commands}'); "
        "commands.__getattr__ = lambda name: os.kill(os.getpid(), signal.SIGTERM); "
        f"sys.modules['{commands}'] = commands; {module}.main()"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 128 + 15


@pytest.mark.parametrize(
    ("script", "extra", "hidden"),
    [
        ("task-service", "service", "typer"),
        ("task-service", "service", "fastapi"),
        ("task-operator", "operator", "kopf"),
    ],
)
def test_missing_extra_is_named(script: str, extra: str, hidden: str) -> None:
    module = SCRIPTS[script].partition(":")[0]
    arguments = {"task-service": ["api"], "task-operator": ["run"]}[script]
    program = (
        "import sys, importlib.abc\n"
        "class Hide(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        f"        if name.partition('.')[0] == {hidden!r}:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Hide())\n"
        f"sys.argv = [{script!r}, *{arguments!r}]\n"
        f"import {module}\n"
        f"sys.exit({module}.main())\n"
    )
    environment = {"DATABASE_URL": "postgresql://localhost/tasks", "AUTH_MODE": "open"}
    ended = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert ended.returncode == 1
    assert f"needs the extra '{extra}'" in ended.stderr
    assert f"pip install 'task-service[{extra}]'" in ended.stderr
    assert "Traceback" not in ended.stderr
