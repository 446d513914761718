"""Process of `task-service worker` with the package of sample handlers installed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from task_service.embedded import free_port
from tests.support.api_process import environment_of

HANDLER_PACKAGE = Path(__file__).parent / "handler_package"
ARGV = [sys.executable, "-m", "task_service.cli", "worker"]
END_SECONDS = 60.0


class WorkerCommand:
    """Worker process and its log."""

    def __init__(self, database: str, folder: Path, **settings: object) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        defaults: dict[str, object] = {
            "database_url": database,
            "auth_mode": "open",
            "management_host": "127.0.0.1",
            "management_port": free_port(),
            "retry_base_seconds": 0.01,
            "pythonpath": HANDLER_PACKAGE,
        }
        self._log = folder / "worker.log"
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                ARGV,
                env=environment_of(folder, defaults | settings),
                cwd=folder,
                stdout=log,
                stderr=log,
            )

    def log(self) -> str:
        """Return everything the process has written."""
        return self._log.read_text(errors="replace")

    def terminate(self) -> None:
        """Send SIGTERM, as Kubernetes does."""
        self.process.send_signal(signal.SIGTERM)

    def wait(self) -> int:
        """Wait for the process to end, and return its exit code."""
        return self.process.wait(END_SECONDS)

    def kill(self) -> None:
        """Kill the process."""
        if self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()
