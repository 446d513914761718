"""A real Redis for a test: on a free port, ended by its id. Without persistence unless it is given
a folder.
"""

import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from task_service.embedded import free_port
from tests.support.skipping import skip_or_fail
from tests.support.waiting import wait_until_started

PROGRAMS = ("redis-server", "valkey-server")


class RedisServer:
    """One server at one address, which may be killed, stopped for a while, and started again."""

    def __init__(self, program: str, folder: Path | None) -> None:
        self._program, self._folder = program, folder
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The id of its process; it must run."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start, with the dump in its folder if there is one; returns when it answers."""
        keep = ["--dir", str(self._folder)] if self._folder else []
        options = ["--save", "", "--appendonly", "no", "--bind", "127.0.0.1", *keep]
        command = [self._program, "--port", str(self.port), *options]
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        wait_until_started(self._process, self._program, self._answers)

    def kill(self) -> None:
        """End it at once; nothing is saved."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait()
            self._process = None

    def hang(self) -> None:
        """Let it accept connections and answer nothing."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on after `hang`."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith(b"+PONG")
        except OSError:
            return False


@contextmanager
def redis_server(folder: Path | None = None) -> Iterator[RedisServer]:
    """A running Redis (or Valkey); the test is left out where there is none, unless
    REQUIRE_CLUSTER=1.
    """
    program = next((found for name in PROGRAMS if (found := shutil.which(name))), None)
    if program is None:
        skip_or_fail("no redis-server on this machine (Debian's package is redis-server)")
    server = RedisServer(program, folder)
    server.start()
    try:
        yield server
    finally:
        server.kill()
