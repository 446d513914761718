"""`task-service worker` as a process of its own, with the handlers of `tests/support/authors` installed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from task_service.embedded import free_port
from tests.support.api_process import environment_of

AUTHORS = Path(__file__).parent / "authors"
ARGV = [sys.executable, "-m", "task_service.cli", "worker"]
END_SECONDS = 60.0


class WorkerCommand:
    """One process and what it has logged."""

    def __init__(self, database: str, folder: Path, **settings: object) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        given: dict[str, object] = {
            "database_url": database, "auth_mode": "open", "management_host": "127.0.0.1",
            "management_port": free_port(), "retry_base_seconds": 0.01, "pythonpath": AUTHORS,
        }  # fmt: skip
        self._log = folder / "worker.log"
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                ARGV,
                env=environment_of(folder, given | settings),
                cwd=folder,
                stdout=log,
                stderr=log,
            )

    def log(self) -> str:
        """All that it has written."""
        return self._log.read_text(errors="replace")

    def terminate(self) -> None:
        """Ask it to end, as Kubernetes does."""
        self.process.send_signal(signal.SIGTERM)

    def wait(self) -> int:
        """Its exit code; subprocess.TimeoutExpired when it does not end."""
        return self.process.wait(END_SECONDS)

    def kill(self) -> None:
        """End it at once."""
        if self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()
