"""PgBouncer in transaction mode before a server: what a statement may rely on there is what the service relies on."""

import os
import shutil
import subprocess
import tempfile
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
default_pool_size = 4
"""


@contextmanager
def transaction_pooler(url: str) -> Iterator[str]:
    """The same database by way of PgBouncer with four server connections; its address is ready to be polled."""
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
        config.write_text(CONFIG.format(host=parts.hostname, port=parts.port, user=parts.username, listen=listen))
        user = "nobody" if os.geteuid() == 0 else None  # PgBouncer refuses to run as root
        process = subprocess.Popen([program, "-q", str(config)], user=user, stdin=subprocess.DEVNULL)
        try:
            yield urlunsplit(parts._replace(netloc=f"{parts.username}@127.0.0.1:{listen}"))
        finally:
            process.kill()
            process.wait()
