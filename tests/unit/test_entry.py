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
