"""The servers that all products use: one durable PostgreSQL, and one Redis without persistence, on
127.0.0.1.
"""

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg2
from redis import Redis

from bench.rivals.catalogue import QUEUE, Product
from bench.rivals.environments import MissingError, python_of
from task_service.embedded import EmbeddedPostgres
from tests.support.redis import RedisServer

REDIS_PROGRAMS = ("valkey-server", "redis-server")
OPTIONS = {
    "fsync": "on", "synchronous_commit": "on", "full_page_writes": "on", "shared_buffers": "512MB",
    "max_wal_size": "4GB", "max_connections": "1000",
}  # fmt: skip
ROOT = Path(__file__).parents[2]


class Place:
    """Where one product keeps its tasks: a database of its own, or the whole of Redis."""

    def __init__(self, product: Product, url: str) -> None:
        self.product, self.url = product, url

    def unfinished(self) -> int:
        """Tasks that have not ended."""
        raise NotImplementedError

    def settle(self) -> None:
        """Bring a filled database to rest, so that each product begins with statistics and an empty
        log of changes.
        """

    def query(self, sql: str, *values: object) -> Any:
        """The first value of what a statement gives; PostgreSQL only."""
        raise NotImplementedError


class Database(Place):
    """A database of PostgreSQL."""

    def __init__(self, product: Product, url: str) -> None:
        super().__init__(product, url)
        self.connection = psycopg2.connect(url, application_name="bench")
        self.connection.autocommit = True

    def unfinished(self) -> int:
        """By the product's own statement."""
        return int(self.query(self.product.open))

    def settle(self) -> None:
        """VACUUM, ANALYZE and a checkpoint."""
        with self.connection.cursor() as cursor:
            cursor.execute("VACUUM (ANALYZE)")
            cursor.execute("CHECKPOINT")

    def query(self, sql: str, *values: object) -> Any:
        """One value."""
        with self.connection.cursor() as cursor:
            cursor.execute(sql, values or None)
            [value] = cursor.fetchone() or [None]
            return value


class Memory(Place):
    """Redis."""

    def unfinished(self) -> int:
        """By the product's own script."""
        with Redis.from_url(self.url) as redis:
            return int(redis.eval(self.product.open, 0))


class Servers:
    """Both servers, and a place for each product in turn."""

    def __init__(self, folder: Path) -> None:
        self.postgres = EmbeddedPostgres(folder, options=OPTIONS)
        self._redis: RedisServer | None = None
        self._prepared: set[str] = set()

    @property
    def log(self) -> Path:
        """PostgreSQL's log."""
        return self.postgres.folder / "postgresql.log"

    @contextmanager
    def running(self) -> Iterator[None]:
        """Start PostgreSQL, and end it with whatever was started since."""
        try:
            with self.postgres:
                yield
        finally:
            if self._redis is not None:
                self._redis.kill()

    def prepare(self, product: Product) -> None:
        """Have what the product needs: its environment, its server, its tables. Raises
        MissingError.
        """
        python_of(product)
        if product.store == "redis":
            self._start_redis()
            return
        self._administer(f'CREATE DATABASE "{_template(product)}"')
        argv = [str(python_of(product)), "-m", "bench.rivals.child", product.adaptor, "prepare"]
        url = self.postgres.url(_template(product))
        done = subprocess.run(
            [*argv, url, QUEUE, "-", "0"], cwd=ROOT, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise MissingError(f"its tables cannot be made: {done.stderr.strip()[-500:]}")

    @contextmanager
    def place(self, product: Product, name: str = "") -> Iterator[Place]:
        """An empty place for the product, gone afterwards. `name` tells places of one product
        apart.
        """
        if product.store == "redis":
            if self._redis is None:
                raise MissingError("Redis does not run")
            with Redis.from_url(self._redis.url) as redis:
                redis.flushall()
            yield Memory(product, self._redis.url)
            return
        database = f"{product.adaptor}{name}"
        self._administer(f'DROP DATABASE IF EXISTS "{database}" WITH (FORCE)')
        self._administer(f'CREATE DATABASE "{database}" TEMPLATE "{_template(product)}"')
        place = Database(product, self.postgres.url(database))
        try:
            yield place
        finally:
            place.connection.close()
            self._administer(f'DROP DATABASE "{database}" WITH (FORCE)')

    def versions(self) -> dict[str, str]:
        """Of the servers that run."""
        with (
            contextlib.closing(psycopg2.connect(self.postgres.url())) as connection,
            connection.cursor() as cursor,
        ):
            cursor.execute("SHOW server_version")
            [version] = cursor.fetchone() or [None]
            found = {"postgresql": str(version)}
        if self._redis is not None:
            with Redis.from_url(self._redis.url) as redis:
                about = redis.info("server")
                found["redis"] = f"{about.get('server_name', 'redis')} {about['redis_version']}"
        return found

    def _administer(self, sql: str) -> None:
        with contextlib.closing(psycopg2.connect(self.postgres.url())) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(sql)

    def _start_redis(self) -> None:
        if self._redis is not None:
            return
        program = next((found for name in REDIS_PROGRAMS if (found := shutil.which(name))), None)
        if program is None:
            raise MissingError("needs valkey-server or redis-server, and this machine has neither")
        self._redis = RedisServer(program, None)
        self._redis.start()


def _template(product: Product) -> str:
    return f"{product.adaptor}_empty"
