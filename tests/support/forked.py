"""Functions that run in a process of their own, forked from one that has imported the service.

A new interpreter needs more than a second to import the service. The fork server of
`multiprocessing` imports it once for all processes.
"""

import multiprocessing
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

END_SECONDS = 60.0
PRELOADED = ["__main__", "task_service.cli", "task_service.server"]


@dataclass(frozen=True)
class Ended:
    """Exit code and standard error of a process that has ended."""

    code: int | None
    stderr: str


def run_forked(function: Callable[[], object], environment: dict[str, str], folder: Path) -> Ended:
    """Run a module-level function in a forked process with this environment and working folder."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    output = folder / "stderr"
    process = context.Process(target=_run, args=(function, environment, folder, output))
    process.start()
    process.join(END_SECONDS)
    assert process.exitcode is not None, f"still running after {END_SECONDS:g} s"
    return Ended(process.exitcode, output.read_text())


def _run(
    function: Callable[[], object], environment: dict[str, str], folder: Path, output: Path
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 2)
    function()
