"""Where the console scripts begin."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

SCRIPTS = tomllib.loads((Path(__file__).resolve().parents[2] / "pyproject.toml").read_text())[
    "project"
]["scripts"]
COMMANDS = {"task-service": "task_service.cli", "task-operator": "task_operator.process.cli"}
SLOW = {"typer", "pydantic", "kopf", "fastapi", "sqlalchemy", "asyncio"}


@pytest.mark.parametrize("script", sorted(SCRIPTS))
def test_nothing_slow_is_imported_before_sigterm_is_heard(script: str) -> None:
    module = SCRIPTS[script].partition(":")[0]
    program = f"import sys, {module}; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.split()
    assert module in loaded
    assert not SLOW & set(loaded)


@pytest.mark.parametrize("script", sorted(SCRIPTS))
def test_sigterm_amid_the_imports_ends_the_process(script: str) -> None:
    module = SCRIPTS[script].partition(":")[0]
    commands = COMMANDS[script]
    raising = (
        f"import os, signal, sys, types, {module}; "
        f"commands = types.ModuleType('{commands}'); "
        "commands.__getattr__ = lambda name: os.kill(os.getpid(), signal.SIGTERM); "
        f"sys.modules['{commands}'] = commands; {module}.main()"
    )
    assert subprocess.run([sys.executable, "-c", raising], check=False).returncode == 128 + 15
