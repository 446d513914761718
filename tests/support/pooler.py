"""PgBouncer in transaction mode before a server: what a statement may rely on there is what the
service relies on.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from task_service.embedded import free_port
from tests.support.skipping import skip_or_fail
from tests.support.waiting import wait_until_started

PROGRAM = "pgbouncer"
CONFIG = """\
[databases]
* = host={host} port={port} user={user}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen}
unix_socket_dir =
auth_type = any
pool_mode = transaction
server_login_retry = 1
default_pool_size = {size}
max_client_conn = 2000
"""


class Pooler:
    """One PgBouncer at one address, which may be killed and started again."""

    def __init__(self, program: str, folder: Path, url: str, size: int) -> None:
        parts, self._port = urlsplit(url), free_port()
        self.url = urlunsplit(parts._replace(netloc=f"{parts.username}@127.0.0.1:{self._port}"))
        self._program, self._config = program, folder / "pgbouncer.ini"
        server = {"host": parts.hostname, "port": parts.port, "user": parts.username}
        self._config.write_text(CONFIG.format(listen=self._port, size=size, **server))
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; returns when it listens."""
        user = "nobody" if os.geteuid() == 0 else None  # PgBouncer refuses to run as root
        command = [self._program, "-q", str(self._config)]
        self._process = subprocess.Popen(command, user=user, stdin=subprocess.DEVNULL)
        wait_until_started(self._process, PROGRAM, self._listens)

    def kill(self) -> None:
        """End it at once, with all connections."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _listens(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._port), 1):
            return True
        return False


@contextmanager
def pooler(url: str, size: int = 4) -> Iterator[Pooler]:
    """A running PgBouncer before the server of `url`, with so many connections to it.

    The test is left out where there is none, unless REQUIRE_CLUSTER=1.
    """
    program = shutil.which(PROGRAM) or shutil.which(PROGRAM, path="/usr/sbin")
    if program is None:
        skip_or_fail("no pgbouncer on this machine (Debian's package is pgbouncer)")
    with tempfile.TemporaryDirectory(prefix="task-service-pooler-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        one = Pooler(program, folder, url, size)
        try:
            one.start()
            yield one
        finally:
            one.kill()


@contextmanager
def transaction_pooler(url: str, size: int = 4) -> Iterator[str]:
    """The same database by way of PgBouncer; its address, at which it listens."""
    with pooler(url, size) as one:
        yield one.url
