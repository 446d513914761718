"""A whole product for the conformance suites: PostgreSQL, Redis where there is one, and `task-service serve`."""

import contextlib
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
END_SECONDS = 60


@dataclass(frozen=True)
class Product:
    """A running product: its address, its administrator, and whose paths `/tasks` at the root speaks."""

    url: str
    admin: tuple[str, str]
    root: str
    tokens: dict[str, str] = field(default_factory=dict)

    def client(self, prefix: str = "", role: str | None = "admin") -> httpx.Client:
        """A client of the paths under a prefix, with a token of a user who has the role; None: without a token."""
        headers = {"Authorization": f"Bearer {self.token(role)}"} if role else {}
        return httpx.Client(base_url=f"{self.url}{prefix}", headers=headers, timeout=30)

    def token(self, role: str) -> str:
        """An access token of a user with this role, who is registered for it."""
        if role not in self.tokens:
            self.tokens[role] = self.log_in(
                *(self.admin if role == "admin" else self.register(role))
            )
        return self.tokens[role]

    def register(self, role: str) -> tuple[str, str]:
        """A new user's name and password."""
        user = (f"{role}-{uuid4().hex[:8]}", uuid4().hex)
        with self.client() as admin:
            made = admin.post(
                "/api/v1/users", json={"username": user[0], "password": user[1], "role": role}
            )
        assert made.status_code == 201, made.text
        return user

    def log_in(self, name: str, password: str) -> str:
        """The access token of a user."""
        answer = httpx.post(
            f"{self.url}/api/v1/auth/token", data={"username": name, "password": password}
        )
        assert answer.status_code == 200, answer.text
        return str(answer.json()["access_token"])


class Workshop:
    """Starts products on one PostgreSQL and one Redis, each with a database of its own; `close` ends all of it."""

    def __init__(self, *, with_redis: bool = True, with_pooler: bool = False) -> None:
        self._stack = contextlib.ExitStack()
        self.folder = Path(tempfile.mkdtemp(prefix="task-service-conformance-", dir="/var/tmp"))
        self.folder.chmod(0o755)  # root's PostgreSQL runs as another user
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
        """End every process and remove the folder."""
        self._stack.close()

    def start(self, root: str = "c", **settings: object) -> Product:
        """Start a product on a new database and wait until it is ready."""
        self._number += 1
        self._create_database(f"product_{self._number} TEMPLATE migrated")
        url = self.postgres.url(f"product_{self._number}")
        if self._with_pooler:
            url = self._stack.enter_context(transaction_pooler(url))
        port, management_port = free_port(), free_port()
        env = _environment({
            "DATABASE_URL": url, "DATABASE_POOLER": self._with_pooler,
            "REDIS_URL": self.redis_url and f"{self.redis_url}/{self._number}",
            "HOST": "127.0.0.1", "PORT": port, "MANAGEMENT_HOST": "127.0.0.1", "MANAGEMENT_PORT": management_port,
            "RUNTIME_DIR": self.folder / f"run-{self._number}",
            "TERMINATION_LOG": self.folder / "termination-log",
            "ROOT_COMPATIBILITY": root, "AUTH_MODE": "required", "SECRET_KEY": uuid4().hex + uuid4().hex,
            "ADMIN_USERNAME": ADMIN[0], "ADMIN_PASSWORD": ADMIN[1], "RATE_LIMIT_LOGIN": "100000/minute",
            "CONVERSATIONS_MIN_SECONDS": 0.2, "CONVERSATIONS_MAX_SECONDS": 0.4, "LOG_FORMAT": "console",
            **settings,
        })  # fmt: skip
        log = self._stack.enter_context((self.folder / f"product-{self._number}.log").open("w+"))
        process = subprocess.Popen([*PROGRAM, "serve"], env=env, cwd="/", stdout=log, stderr=log)
        self._stack.callback(_end, process)
        ready = f"http://127.0.0.1:{management_port}/readyz"

        def is_ready() -> bool:
            assert process.poll() is None, Path(log.name).read_text()
            with contextlib.suppress(httpx.TransportError):
                return httpx.get(ready).status_code == 200
            return False

        until("the product is ready", is_ready, START_SECONDS)
        # Beside its first requests the product makes its administrator; asking by logging in would use up a limit.
        until(
            "there is an administrator",
            lambda: "first_admin_made" in Path(log.name).read_text(),
            START_SECONDS,
        )
        return Product(f"http://127.0.0.1:{port}", ADMIN, root)

    def _run(self, command: str, **settings: str) -> None:
        env = _environment({"TERMINATION_LOG": self.folder / "termination-log", **settings})
        subprocess.run([*PROGRAM, command], env=env, cwd="/", check=True, timeout=START_SECONDS)

    def _create_database(self, what: str) -> None:
        import psycopg2

        connection = psycopg2.connect(self.postgres.url())
        connection.autocommit = True
        with contextlib.closing(connection), connection.cursor() as cursor:
            cursor.execute(f"CREATE DATABASE {what}")


def _environment(settings: Mapping[str, object]) -> dict[str, str]:
    return os.environ | {
        name.upper(): str(value) for name, value in settings.items() if value is not None
    }


def until(what: str, probe: Callable[[], bool], seconds: float = 15) -> None:
    """Wait until something becomes true; AssertionError when it does not."""
    deadline = time.monotonic() + seconds
    while not probe():
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.05)


@contextlib.contextmanager
def _redis(folder: Path) -> Iterator[str | None]:
    """The address of a new Redis; None where there is none."""
    if not shutil.which("redis-server"):
        yield None
        return
    port = free_port()
    argv = [
        "redis-server",
        "--port",
        str(port),
        "--bind",
        "127.0.0.1",
        "--save",
        "",
        "--dir",
        str(folder),
    ]
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield f"redis://127.0.0.1:{port}"
    finally:
        _end(process)


def _end(process: "subprocess.Popen[bytes] | subprocess.Popen[str]") -> None:
    process.terminate()
    try:
        process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
