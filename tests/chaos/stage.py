"""The processes of a chaos run: PostgreSQL, PgBouncer, Redis, the API, and a worker in each seat."""

import asyncio
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import httpx

from task_service.clocks import machine_seconds
from task_service.embedded import EmbeddedPostgres
from task_service.migrations.upgrade import migrate
from task_service.settings import load_settings
from task_service.store.database import create_engine
from tests.chaos import evidence
from tests.chaos.handlers import NOTES, write_package
from tests.chaos.plan import DIRECT, LEASE_SECONDS, POOLED, PROXIED
from tests.support.api_process import ApiProcess, environment_of
from tests.support.pooler import Pooler, pooler
from tests.support.redis import RedisServer, redis_server
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import eventually
from tests.support.wall_clock import WallClock

REPOSITORY = Path(__file__).parents[2]
WORKER = [sys.executable, "-m", "task_service.cli", "worker"]
POOL_SIZE = 20
LEASES: dict[str, object] = {
    "heartbeat_seconds": LEASE_SECONDS * 0.3,
    "lease_seconds": LEASE_SECONDS,
}
WORKERS = LEASES | {
    "worker_concurrency": 20, "shutdown_seconds": 6, "retry_base_seconds": 0.1, "retry_cap_seconds": 0.5,
    "management_host": "127.0.0.1", "management_port": 0, "log_level": "WARNING",
}  # fmt: skip
LEFT = {0, 128 + signal.SIGTERM, -signal.SIGTERM}
"""Codes of a worker that was told to end: in good order, or before it had begun."""
LEAVE_SECONDS, CONNECT_SECONDS, REQUEST_SECONDS, BACK_SECONDS = 30.0, 5.0, 15.0, 60.0
BACK_TRIES, BACK_PAUSE_SECONDS = 300, 0.2
"""So often the server is asked before it is given up: a minute at least."""
AWAY = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError)
"""What our own connections may meet while the server is away."""


@dataclass
class Life:
    """One worker process, from its start to its end; `number` tells it from all others."""

    number: int
    seat: int
    process: subprocess.Popen[bytes]
    ended: float | None = None


@dataclass
class Seat:
    """A place for a worker: the way to the database, its slot's folder, and the process that is there now."""

    number: int
    database_url: str
    slot: Path
    proxy: TcpProxy | None = None
    life: Life | None = None

    @property
    def pooled(self) -> bool:
        """Whether PgBouncer is on the way."""
        return self.number in POOLED


@dataclass
class Stage:
    """Everything that runs, and what was seen of it beside the database."""

    folder: Path
    postgres: EmbeddedPostgres
    pooler: Pooler
    redis: RedisServer
    client: httpx.AsyncClient
    clock: WallClock
    seats: list[Seat] = field(default_factory=list)
    lives: list[Life] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)
    api: ApiProcess | None = None

    # -- the database --
    async def connect(self) -> asyncpg.Connection:
        """A connection of our own, direct; raises one of AWAY."""
        return await asyncpg.connect(
            self.postgres.url(), timeout=CONNECT_SECONDS, command_timeout=REQUEST_SECONDS,
            server_settings={"application_name": evidence.OURS},
        )  # fmt: skip

    async def ask(self, query: str, *values: object) -> list[asyncpg.Record]:
        """The rows of a query, once the server answers; it may be asked more than once."""
        tries = 0
        while True:
            try:
                connection = await self.connect()
                try:
                    return await connection.fetch(query, *values)
                finally:
                    connection.terminate()
            except AWAY:
                tries += 1
                if tries == BACK_TRIES:
                    raise
                await asyncio.sleep(BACK_PAUSE_SECONDS)

    async def begin(self) -> None:
        """Wait until every worker is registered, and the API is ready."""

        async def all_registered() -> bool:
            [[registered]] = await self.ask("SELECT count(*) FROM workers")
            return bool(registered == len(self.seats))

        await eventually("every worker's registration", all_registered, BACK_SECONDS)
        assert self.api is not None
        await asyncio.to_thread(self.api.wait_until, "readyz")

    # -- the API --
    def start_api(self, *, pooled: bool = False) -> None:
        """Start the API, at an address that is free; returns before it is ready."""
        url = self.pooler.url if pooled else self.postgres.url()
        given = LEASES | {
            "database_url": url, "database_pooler": pooled, "redis_url": self.redis.url, "auth_mode": "open",
            "log_level": "WARNING", "db_statement_timeout_seconds": 3,
        }  # fmt: skip
        self.api = ApiProcess(environment_of(self.folder, given), self.folder)

    def kill_api(self) -> None:
        """Kill the API."""
        assert self.api is not None
        if self.api.process.poll() is not None:
            self.troubles.append(
                f"the API ended by itself; its last words: {self.api.log()[-1500:]}"
            )
        self.api.process.kill()
        self.api.process.wait()

    async def request(self, method: str, path: str, **given: Any) -> httpx.Response:
        """Ask the API. httpx.HTTPError while it is away; an answer that no outage explains is a trouble, too."""
        assert self.api is not None
        answer = await self.client.request(method, self.api.url + path, **given)
        if answer.status_code >= 400 and answer.status_code != 503:
            self.troubles.append(
                f"{method} {path} answered {answer.status_code}: {answer.text[:500]}"
            )
        return answer.raise_for_status()

    # -- workers --
    def start_worker(self, seat: Seat, *, clock_hours: int = 0) -> None:
        """Start a process in this seat, which must be free."""
        number = len(self.lives)
        given = WORKERS | {
            "database_url": seat.database_url, "database_pooler": seat.pooled, "runtime_dir": seat.slot,
        }  # fmt: skip
        environment = environment_of(self.folder, given) | self.clock.environment(clock_hours)
        environment |= {
            "PYTHONPATH": f"{REPOSITORY}:{self.folder}",
            NOTES: str(self.notes_of(number)),
        }
        with self.log_of(number).open("wb") as log:
            process = subprocess.Popen(
                WORKER, env=environment, cwd=self.folder, stdout=log, stderr=log
            )
        seat.life = Life(number, seat.number, process)
        self.lives.append(seat.life)

    def notes_of(self, number: int) -> Path:
        """The file in which a worker process notes its runs."""
        return self.folder / f"worker-{number}.notes"

    def log_of(self, number: int) -> Path:
        """What a worker process has logged."""
        return self.folder / f"worker-{number}.log"

    async def kill_worker(self, seat: Seat) -> None:
        """Kill the seat's process."""
        life = self._living(seat)
        life.process.kill()
        await asyncio.to_thread(life.process.wait)
        life.ended = machine_seconds()

    async def end_worker(self, seat: Seat) -> None:
        """Tell the seat's process to end, and wait for that; one that does not end in time is a trouble."""
        life = self._living(seat)
        life.process.send_signal(signal.SIGTERM)
        try:
            code = await asyncio.to_thread(life.process.wait, LEAVE_SECONDS)
        except subprocess.TimeoutExpired:
            life.process.kill()
            code = await asyncio.to_thread(life.process.wait)
        life.ended = machine_seconds()
        if code not in LEFT:
            self._complain(life, f"answered SIGTERM with code {code}")

    def _living(self, seat: Seat) -> Life:
        assert seat.life is not None
        life, code = seat.life, seat.life.process.poll()
        if code is not None:
            self._complain(life, f"ended by itself with code {code}")
        return life

    def _complain(self, life: Life, what: str) -> None:
        last = self.log_of(life.number).read_text()[-1500:]
        self.troubles.append(
            f"worker {life.number} in seat {life.seat} {what}; its last words: {last}"
        )


@asynccontextmanager
async def set_stage(folder: Path) -> AsyncIterator[Stage]:
    """Start everything, with the tables of the run, and end it all; `folder` keeps notes and logs."""
    write_package(folder)
    async with AsyncExitStack() as stack:
        postgres = stack.enter_context(_postgres())
        await _prepare(postgres)
        stage = Stage(
            folder,
            postgres,
            stack.enter_context(pooler(postgres.url(), POOL_SIZE)),
            stack.enter_context(redis_server()),
            await stack.enter_async_context(httpx.AsyncClient(timeout=REQUEST_SECONDS)),
            WallClock(folder),
        )
        stack.callback(_end_processes, stage)
        for number in DIRECT + PROXIED + POOLED:
            url = stage.pooler.url if number in POOLED else postgres.url()
            proxy = await stack.enter_async_context(TcpProxy(url)) if number in PROXIED else None
            seat = Seat(number, proxy.url if proxy else url, folder / f"slot-{number}", proxy)
            stage.seats.append(seat)
            stage.start_worker(seat)
        stage.start_api()
        await stage.begin()
        yield stage


@contextmanager
def _postgres() -> Iterator[EmbeddedPostgres]:
    with tempfile.TemporaryDirectory(prefix="task-service-chaos-", dir="/var/tmp") as name:
        server = EmbeddedPostgres(Path(name), options={"max_connections": "300"})
        server.start()
        try:
            yield server
        finally:
            server.stop()


async def _prepare(postgres: EmbeddedPostgres) -> None:
    await migrate(create_engine(load_settings(database_url=postgres.url()), pooled=False))
    connection = await asyncpg.connect(postgres.url())
    await connection.execute(evidence.CREATE)
    await connection.close()


def _end_processes(stage: Stage) -> None:
    for life in stage.lives:
        if life.process.poll() is None:
            life.process.kill()
            life.process.wait()
    if stage.api is not None and stage.api.process.poll() is None:
        stage.kill_api()
