"""The same tests with more between the service and its data: TEST_REDIS=1 a Redis, TEST_POOLER=1 PgBouncer.

`settings_for` asks here what that adds to a test's settings.
"""

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from urllib.parse import urlsplit, urlunsplit

from tests.support.pooler import transaction_pooler
from tests.support.redis import redis_server

_present: dict[str, str] = {}
"""`redis`: its URL; `server` and `pooler`: host and port of the session's PostgreSQL, and of what stands before it."""


@contextmanager
def more_servers(postgres_url: str) -> Iterator[None]:
    """Start what the environment asks for, for a session of tests."""
    with ExitStack() as stack:
        if os.environ.get("TEST_REDIS") == "1":
            _present["redis"] = stack.enter_context(redis_server()).url
        if os.environ.get("TEST_POOLER") == "1":
            pooled = stack.enter_context(transaction_pooler(postgres_url, size=20))
            _present.update(server=urlsplit(postgres_url).netloc, pooler=urlsplit(pooled).netloc)
        try:
            yield
        finally:
            _present.clear()


def more_settings(database_url: str) -> dict[str, object]:
    """What the service's settings have besides, for a database of that session or another one."""
    given: dict[str, object] = {}
    if "redis" in _present:
        given |= {"redis_url": _present["redis"], "redis_timeout_seconds": 1.0}
    parts = urlsplit(database_url)
    if parts.netloc == _present.get("server"):
        given |= {
            "database_url": urlunsplit(parts._replace(netloc=_present["pooler"])),
            "database_pooler": True,
        }
    return given


def forget_all() -> None:
    """Empty that Redis: the next test has a database of its own, too."""
    if "redis" in _present:
        parts = urlsplit(_present["redis"])
        with socket.create_connection((str(parts.hostname), int(parts.port or 0)), 5) as connection:
            connection.sendall(b"FLUSHALL\r\n")
            assert connection.recv(16).startswith(b"+OK")
