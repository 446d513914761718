"""PgBouncer in transaction mode before a server: what a statement may rely on there is what the service relies on."""

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import pytest

from task_service.embedded import free_port

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
default_pool_size = {size}
max_client_conn = 2000
"""
START_SECONDS = 10.0


@contextmanager
def transaction_pooler(url: str, size: int = 4) -> Iterator[str]:
    """The same database by way of PgBouncer with so many server connections; its address, at which it listens."""
    program = shutil.which(PROGRAM) or shutil.which(PROGRAM, path="/usr/sbin")
    if program is None:
        reason = "no pgbouncer on this machine (Debian's package is pgbouncer)"
        if os.environ.get("REQUIRE_CLUSTER") == "1":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    parts, listen = urlsplit(url), free_port()
    with tempfile.TemporaryDirectory(prefix="task-service-pooler-") as folder:
        Path(folder).chmod(0o755)
        config = Path(folder) / "pgbouncer.ini"
        values = {"host": parts.hostname, "port": parts.port, "user": parts.username, "listen": listen, "size": size}
        config.write_text(CONFIG.format(**values))
        user = "nobody" if os.geteuid() == 0 else None  # PgBouncer refuses to run as root
        process = subprocess.Popen([program, "-q", str(config)], user=user, stdin=subprocess.DEVNULL)
        try:
            _wait_until_it_listens(process, listen)
            yield urlunsplit(parts._replace(netloc=f"{parts.username}@127.0.0.1:{listen}"))
        finally:
            process.kill()
            process.wait()


def _wait_until_it_listens(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{PROGRAM} did not start")
        time.sleep(0.01)
