"""Settings of the service for tests, with Redis (TEST_REDIS=1) and PgBouncer (TEST_POOLER=1)."""

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from urllib.parse import urlsplit, urlunsplit

from task_service.settings import Settings
from tests.support.pooler import transaction_pooler
from tests.support.redis import redis_server

_servers: dict[str, str] = {}
"""URL of `redis`; host and port of `postgres` (the session's server) and of its `pooler`."""


def settings_for(url: str, *, use_optional_servers: bool = True, **overrides: object) -> Settings:
    """Return settings for this database, with short heartbeats and without the `.env` file.

    They include the servers of TEST_REDIS and TEST_POOLER unless `use_optional_servers` is false.
    """
    settings: dict[str, object] = {
        "heartbeat_seconds": 0.2,
        "lease_seconds": 1.0,
        "log_format": "console",
        "auth_mode": "open",
        "database_url": url,
    }
    if use_optional_servers:
        settings |= _optional_server_settings(url)
    return Settings(_env_file=None, **(settings | overrides))  # type: ignore[call-arg,arg-type]


@contextmanager
def optional_servers(postgres_url: str) -> Iterator[None]:
    """Run the servers that TEST_REDIS and TEST_POOLER request, for one test session."""
    with ExitStack() as stack:
        if os.environ.get("TEST_REDIS") == "1":
            _servers["redis"] = stack.enter_context(redis_server()).url
        if os.environ.get("TEST_POOLER") == "1":
            pooled = stack.enter_context(transaction_pooler(postgres_url, size=20))
            _servers.update(postgres=urlsplit(postgres_url).netloc, pooler=urlsplit(pooled).netloc)
        try:
            yield
        finally:
            _servers.clear()


def _optional_server_settings(database_url: str) -> dict[str, object]:
    """Return the settings that connect the service to the running optional servers."""
    settings: dict[str, object] = {}
    if "redis" in _servers:
        settings |= {"redis_url": _servers["redis"], "redis_timeout_seconds": 1.0}
    parts = urlsplit(database_url)
    if parts.netloc == _servers.get("postgres"):
        settings |= {
            "database_url": urlunsplit(parts._replace(netloc=_servers["pooler"])),
            "database_pooler": True,
        }
    return settings


def flush_redis() -> None:
    """Empty the Redis of TEST_REDIS, so that tests are independent of each other."""
    if "redis" in _servers:
        parts = urlsplit(_servers["redis"])
        with socket.create_connection((str(parts.hostname), int(parts.port or 0)), 5) as connection:
            connection.sendall(b"FLUSHALL\r\n")
            assert connection.recv(16).startswith(b"+OK")
