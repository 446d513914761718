"""The cluster's processes: started in sessions of their own, known by pid files, ended by group."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from tests.cluster.binaries import bin_dir


class Processes:
    """The processes of one cluster, with a pid file and a log file each."""

    def __init__(self, state: Path) -> None:
        self.pids, self.logs = state / "pid", state / "log"

    def spawn(self, name: str, argv: Iterable[object]) -> None:
        """Start a process that outlives this one; its output goes to log/NAME.log."""
        env = os.environ | {"PATH": f"{bin_dir()}:{os.environ['PATH']}"}
        with (self.logs / f"{name}.log").open("ab") as log:
            child = subprocess.Popen(
                [str(word) for word in argv],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                env=env,
            )
        (self.pids / name).write_text(str(child.pid))

    def names(self) -> list[str]:
        return [file.name for file in self.pids.iterdir()] if self.pids.exists() else []

    def alive(self, name: str) -> bool:
        """Whether the process runs; a zombie does not."""
        try:
            stat = Path(f"/proc/{int((self.pids / name).read_text())}/stat").read_text()
        except (OSError, ValueError):
            return False
        return stat.rpartition(")")[2].split()[0] != "Z"

    def stop(self, names: Iterable[str], seconds: float) -> None:
        """Ask the processes to end, and kill what is left after so many seconds."""
        chosen = list(names)
        self._signal(chosen, signal.SIGTERM)
        deadline = time.monotonic() + seconds
        while any(map(self.alive, chosen)) and time.monotonic() < deadline:
            time.sleep(0.05)
        self._signal(chosen, signal.SIGKILL)

    def _signal(self, names: Iterable[str], number: signal.Signals) -> None:
        for name in names:
            try:
                os.killpg(int((self.pids / name).read_text()), number)
            except (FileNotFoundError, ProcessLookupError, ValueError):
                continue  # it has ended already


def wait_until(ready: Callable[[], bool], complaint: str, seconds: float = 60) -> None:
    """Poll until `ready`; after so many seconds raise SystemExit with the complaint."""
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            raise SystemExit(f"cluster: {complaint} (waited {seconds:g} s)")
        time.sleep(0.2)
