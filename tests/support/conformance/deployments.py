"""Deployments for the conformance suites: PostgreSQL, Redis if installed, `task-service serve`."""

import contextlib
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import httpx
import psycopg2

from task_service.embedded import EmbeddedPostgres, free_port
from tests.support.pooler import transaction_pooler

QUICK = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_connections": "300",
}
ADMIN = ("admin", "correct-horse-battery-staple")
PROGRAM = (sys.executable, "-m", "task_service.cli")
START_SECONDS = 90
STOP_SECONDS = 60


ROOTS = ("c", "d", "e")
"""The values of ROOT_COMPATIBILITY: the service that `/tasks` at the root belongs to."""


@dataclass(frozen=True)
class Deployment:
    """A running service: its URL, its administrator and its ROOT_COMPATIBILITY."""

    url: str
    admin: tuple[str, str]
    root: str
    tokens: dict[str, str] = field(default_factory=dict)

    def client(self, prefix: str = "", role: str | None = "admin") -> httpx.Client:
        """Open a client of the paths under a prefix, with a token of this role or without one."""
        headers = {"Authorization": f"Bearer {self.token(role)}"} if role else {}
        return httpx.Client(base_url=f"{self.url}{prefix}", headers=headers, timeout=30)

    def token(self, role: str) -> str:
        """Return an access token of this role; register a user for it on first use."""
        if role not in self.tokens:
            self.tokens[role] = self.log_in(
                *(self.admin if role == "admin" else self.register(role))
            )
        return self.tokens[role]

    def register(self, role: str) -> tuple[str, str]:
        """Register a user with this role; return the name and the password."""
        user = (f"{role}-{uuid4().hex[:8]}", uuid4().hex)
        with self.client() as admin:
            made = admin.post(
                "/api/v1/users", json={"username": user[0], "password": user[1], "role": role}
            )
        assert made.status_code == 201, made.text
        return user

    def log_in(self, name: str, password: str) -> str:
        """Log in and return the access token."""
        response = httpx.post(
            f"{self.url}/api/v1/auth/token", data={"username": name, "password": password}
        )
        assert response.status_code == 200, response.text
        return str(response.json()["access_token"])


@dataclass(frozen=True)
class Mount:
    """A place where a compatibility API is mounted: a deployment and a path prefix."""

    deployment: Deployment
    prefix: str

    def client(self, role: str | None = "admin") -> httpx.Client:
        """Open a client of these paths, with a token of this role or without one."""
        return self.deployment.client(self.prefix, role)


class DeploymentFactory:
    """Starts deployments on one PostgreSQL and one Redis, each with its own database."""

    def __init__(self, *, with_redis: bool = True, with_pooler: bool = False) -> None:
        self._stack = contextlib.ExitStack()
        self.folder = Path(tempfile.mkdtemp(prefix="task-service-conformance-", dir="/var/tmp"))
        self.folder.chmod(0o755)  # PostgreSQL of root runs as another user
        self._stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
        self.postgres = self._stack.enter_context(
            EmbeddedPostgres(self.folder / "data", options=QUICK)
        )
        self.redis_url = self._stack.enter_context(_redis(self.folder)) if with_redis else None
        self._with_pooler = with_pooler
        self._number = 0
        self._create_database("migrated")
        self._run("migrate", DATABASE_URL=self.postgres.url("migrated"))

    def close(self) -> None:
        """Stop every process and remove the folder."""
        self._stack.close()

    def start(self, root: str = "c", **settings: object) -> Deployment:
        """Start a service on a new database and wait until it is ready."""
        self._number += 1
        env, port, management_port = self._environment(root, settings)
        log_path = self.folder / f"deployment-{self._number}.log"
        log = self._stack.enter_context(log_path.open("w"))
        process = subprocess.Popen([*PROGRAM, "serve"], env=env, cwd="/", stdout=log, stderr=log)
        self._stack.callback(_stop, process)
        ready = f"http://127.0.0.1:{management_port}/readyz"

        def is_ready() -> bool:
            assert process.poll() is None, log_path.read_text()
            with contextlib.suppress(httpx.TransportError):
                return httpx.get(ready).status_code == 200
            return False

        def has_admin() -> bool:
            return "first_admin_made" in log_path.read_text()

        wait_until("readiness of the service", is_ready, START_SECONDS)
        # The service creates its administrator while it already serves requests. The log is read
        # because a login would count towards a rate limit.
        wait_until("creation of the first administrator", has_admin, START_SECONDS)
        return Deployment(f"http://127.0.0.1:{port}", ADMIN, root)

    def _environment(
        self, root: str, settings: Mapping[str, object]
    ) -> tuple[dict[str, str], int, int]:
        """Return the environment, the port and the management port of the next deployment."""
        number = self._number
        self._create_database(f"deployment_{number} TEMPLATE migrated")
        url = self.postgres.url(f"deployment_{number}")
        if self._with_pooler:
            url = self._stack.enter_context(transaction_pooler(url))
        port, management_port = free_port(), free_port()
        env = _process_environment({
            "DATABASE_URL": url, "DATABASE_POOLER": self._with_pooler,
            "REDIS_URL": self.redis_url and f"{self.redis_url}/{number}",
            "HOST": "127.0.0.1", "PORT": port,
            "MANAGEMENT_HOST": "127.0.0.1", "MANAGEMENT_PORT": management_port,
            "RUNTIME_DIR": self.folder / f"run-{number}",
            "TERMINATION_LOG": self.folder / "termination-log",
            "ROOT_COMPATIBILITY": root,
            "AUTH_MODE": "required", "SECRET_KEY": uuid4().hex + uuid4().hex,
            "ADMIN_USERNAME": ADMIN[0], "ADMIN_PASSWORD": ADMIN[1],
            "RATE_LIMIT_LOGIN": "100000/minute",
            "CONVERSATIONS_MIN_SECONDS": 0.2, "CONVERSATIONS_MAX_SECONDS": 0.4,
            "LOG_FORMAT": "console",
            **settings,
        })  # fmt: skip
        return env, port, management_port

    def _run(self, command: str, **settings: str) -> None:
        env = _process_environment({"TERMINATION_LOG": self.folder / "termination-log", **settings})
        subprocess.run([*PROGRAM, command], env=env, cwd="/", check=True, timeout=START_SECONDS)

    def _create_database(self, definition: str) -> None:
        connection = psycopg2.connect(self.postgres.url())
        connection.autocommit = True
        with contextlib.closing(connection), connection.cursor() as cursor:
            cursor.execute(f"CREATE DATABASE {definition}")


def _process_environment(settings: Mapping[str, object]) -> dict[str, str]:
    return os.environ | {
        name.upper(): str(value) for name, value in settings.items() if value is not None
    }


def wait_until(what: str, probe: Callable[[], bool], seconds: float = 15) -> None:
    """Wait until the probe returns true; raise AssertionError after the time limit."""
    deadline = time.monotonic() + seconds
    while not probe():
        assert time.monotonic() < deadline, f"{what} did not happen within {seconds} s"
        time.sleep(0.05)


@contextlib.contextmanager
def _redis(folder: Path) -> Iterator[str | None]:
    """Start Redis and yield its URL; yield None if Redis is not installed."""
    if not shutil.which("redis-server"):
        yield None
        return
    port = free_port()
    options = {"--port": str(port), "--bind": "127.0.0.1", "--save": "", "--dir": str(folder)}
    argv = ["redis-server", *itertools.chain(*options.items())]
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield f"redis://127.0.0.1:{port}"
    finally:
        _stop(process)


def _stop(process: "subprocess.Popen[bytes] | subprocess.Popen[str]") -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
