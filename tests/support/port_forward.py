"""`kubectl port-forward`, for clusters whose pods and Services this machine cannot reach."""

import re
import subprocess
from collections.abc import Mapping, Sequence

FORWARDING = re.compile(r"Forwarding from (127\.0\.0\.1:\d+) ->")


class PortForward:
    """Running port-forward to one port of a Service or pod."""

    def __init__(self, kubectl: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start it; `kubectl` is the command with its target and port."""
        self._process = subprocess.Popen(
            kubectl, env=environment, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not (match := FORWARDING.match(line)):
            self.close()
            raise RuntimeError(f"{' '.join(kubectl)} printed {line!r}")
        self.address = match[1]

    @property
    def is_running(self) -> bool:
        """True while the forward works; it ends with its pod."""
        return self._process.poll() is None

    def close(self) -> None:
        """Stop it."""
        self._process.terminate()
        self._process.wait()
