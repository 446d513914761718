"""The API as processes of their own: what `task-service api` does with settings, sockets and logs."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

from task_service.embedded import free_port

ARGV = [sys.executable, "-m", "task_service.cli", "api"]
START_SECONDS, END_SECONDS = 60.0, 30.0


class ApiProcess:
    """One process: where it listens, and what it has logged."""

    def __init__(self, environment: dict[str, str], folder: Path) -> None:
        self.port, management = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._probes = f"http://127.0.0.1:{management}"
        self._log = folder / f"api-{self.port}.log"
        addresses = {
            "HOST": "127.0.0.1", "PORT": str(self.port),
            "MANAGEMENT_HOST": "127.0.0.1", "MANAGEMENT_PORT": str(management),
        }  # fmt: skip
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                ARGV, env=environment | addresses, cwd=folder, stdout=log, stderr=log
            )

    def probe(self, name: str) -> str:
        """The address of a probe."""
        return f"{self._probes}/{name}"

    def wait_until(self, probe: str) -> None:
        """Return when this probe is well; AssertionError with the log when it will not be."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            assert self.process.poll() is None, self.log()
            assert time.monotonic() < deadline, self.log()
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(self.probe(probe)).status_code == 200:
                    return
            time.sleep(0.05)

    def log(self) -> str:
        """All that it has written."""
        return self._log.read_text()

    def stop(self) -> None:
        """End it as Kubernetes does, or at once when it does not end."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def environment_of(folder: Path, settings: dict[str, object]) -> dict[str, str]:
    """The environment of a process with these settings and no others."""
    own = {
        name: os.environ[name]
        for name in ("PATH", "HOME", "LANG", "PYTHONPATH")
        if name in os.environ
    }
    given = {
        "RUNTIME_DIR": folder / "run",
        "TERMINATION_LOG": folder / "termination-log",
    } | settings
    return own | {name.upper(): str(value) for name, value in given.items()}


@contextlib.contextmanager
def api_processes(
    number: int = 1, probe: str = "readyz", **settings: object
) -> Iterator[list[ApiProcess]]:
    """So many processes with the same settings, ready unless told to wait for another probe, ended
    by their ids.
    """
    with tempfile.TemporaryDirectory(prefix="task-service-api-") as name:
        folder = Path(name)
        environment = environment_of(folder, settings)
        started: list[ApiProcess] = []
        try:
            started.extend(ApiProcess(environment, folder) for _ in range(number))
            for one in started:
                one.wait_until(probe)
            yield started
        finally:
            for one in started:
                one.stop()
