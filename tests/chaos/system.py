"""Processes of a chaos run: PostgreSQL, PgBouncer, Redis, the API, and a worker in each seat."""

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
from tests.chaos.handlers import EVENTS, write_package
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
    "worker_concurrency": 20,
    "shutdown_seconds": 6,
    "retry_base_seconds": 0.1,
    "retry_cap_seconds": 0.5,
    "management_host": "127.0.0.1",
    "management_port": 0,
    "log_level": "WARNING",
}
EXPECTED_EXIT_CODES = {0, 128 + signal.SIGTERM, -signal.SIGTERM}
"""Exit codes after SIGTERM: regular, or before the worker handled signals."""
STOP_SECONDS, CONNECT_SECONDS, REQUEST_SECONDS, RECOVERY_SECONDS = 30.0, 5.0, 15.0, 60.0
RECOVERY_TRIES, RECOVERY_PAUSE_SECONDS = 300, 0.2
"""Number of connection attempts before giving up: at least a minute."""
CONNECTION_ERRORS = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError)
"""Exceptions of the run's own connections while the server is unavailable."""


@dataclass
class WorkerProcess:
    """One worker process with a unique number."""

    number: int
    seat: int
    process: subprocess.Popen[bytes]
    ended: float | None = None


@dataclass
class Seat:
    """Place of a worker: its connection to the database, slot folder, and current process."""

    number: int
    database_url: str
    slot: Path
    proxy: TcpProxy | None = None
    worker: WorkerProcess | None = None

    @property
    def pooled(self) -> bool:
        """True if the worker connects through PgBouncer."""
        return self.number in POOLED


@dataclass
class System:
    """All servers and processes, and problems that are not visible in the database."""

    folder: Path
    postgres: EmbeddedPostgres
    pooler: Pooler
    redis: RedisServer
    client: httpx.AsyncClient
    clock: WallClock
    seats: list[Seat] = field(default_factory=list)
    workers: list[WorkerProcess] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    api: ApiProcess | None = None

    # -- the database --
    async def connect(self) -> asyncpg.Connection:
        """Open a direct connection of the run itself. Raises one of CONNECTION_ERRORS."""
        return await asyncpg.connect(
            self.postgres.url(),
            timeout=CONNECT_SECONDS,
            command_timeout=REQUEST_SECONDS,
            server_settings={"application_name": evidence.APPLICATION_NAME},
        )

    async def query(self, query: str, *values: object) -> list[asyncpg.Record]:
        """Return the rows of a query, repeating it until the server responds."""
        tries = 0
        while True:
            try:
                connection = await self.connect()
                try:
                    return await connection.fetch(query, *values)
                finally:
                    connection.terminate()
            except CONNECTION_ERRORS:
                tries += 1
                if tries == RECOVERY_TRIES:
                    raise
                await asyncio.sleep(RECOVERY_PAUSE_SECONDS)

    async def wait_until_ready(self) -> None:
        """Wait until every worker is registered and the API is ready."""

        async def all_registered() -> bool:
            [[registered]] = await self.query("SELECT count(*) FROM workers")
            return bool(registered == len(self.seats))

        await eventually("every worker's registration", all_registered, RECOVERY_SECONDS)
        assert self.api is not None
        await asyncio.to_thread(self.api.wait_until, "readyz")

    # -- the API --
    def start_api(self, *, pooled: bool = False) -> None:
        """Start the API on a free port, without waiting for it."""
        url = self.pooler.url if pooled else self.postgres.url()
        settings = LEASES | {
            "database_url": url,
            "database_pooler": pooled,
            "redis_url": self.redis.url,
            "auth_mode": "open",
            "log_level": "WARNING",
            "db_statement_timeout_seconds": 3,
        }
        self.api = ApiProcess(environment_of(self.folder, settings), self.folder)

    def kill_api(self) -> None:
        """Kill the API."""
        assert self.api is not None
        if self.api.process.poll() is not None:
            self.problems.append(
                f"the API ended by itself; end of its log: {self.api.log()[-1500:]}"
            )
        self.api.process.kill()
        self.api.process.wait()

    async def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Send a request to the API, and record an unexpected status as a problem.

        Raises httpx.HTTPError while the API is unavailable.
        """
        assert self.api is not None
        response = await self.client.request(method, self.api.url + path, **options)
        if response.status_code >= 400 and response.status_code != 503:
            self.problems.append(
                f"{method} {path} returned {response.status_code}: {response.text[:500]}"
            )
        return response.raise_for_status()

    # -- workers --
    def start_worker(self, seat: Seat, *, clock_hours: int = 0) -> None:
        """Start a process in this seat, which must be empty."""
        number = len(self.workers)
        settings = WORKERS | {
            "database_url": seat.database_url,
            "database_pooler": seat.pooled,
            "runtime_dir": seat.slot,
        }
        environment = environment_of(self.folder, settings) | self.clock.environment(clock_hours)
        environment |= {
            "PYTHONPATH": f"{REPOSITORY}:{self.folder}",
            EVENTS: str(self.events_file(number)),
        }
        with self.log_file(number).open("wb") as log:
            process = subprocess.Popen(
                WORKER, env=environment, cwd=self.folder, stdout=log, stderr=log
            )
        seat.worker = WorkerProcess(number, seat.number, process)
        self.workers.append(seat.worker)

    def events_file(self, number: int) -> Path:
        """Return the file of a worker process's events."""
        return self.folder / f"worker-{number}.events"

    def log_file(self, number: int) -> Path:
        """Return the log file of a worker process."""
        return self.folder / f"worker-{number}.log"

    async def kill_worker(self, seat: Seat) -> None:
        """Kill the seat's process."""
        worker = self._current_worker(seat)
        worker.process.kill()
        await asyncio.to_thread(worker.process.wait)
        worker.ended = machine_seconds()

    async def stop_worker(self, seat: Seat) -> None:
        """Stop the seat's process with SIGTERM, and record an unexpected exit as a problem."""
        worker = self._current_worker(seat)
        worker.process.send_signal(signal.SIGTERM)
        try:
            code = await asyncio.to_thread(worker.process.wait, STOP_SECONDS)
        except subprocess.TimeoutExpired:
            worker.process.kill()
            code = await asyncio.to_thread(worker.process.wait)
        worker.ended = machine_seconds()
        if code not in EXPECTED_EXIT_CODES:
            self._record_problem(worker, f"exited with code {code} after SIGTERM")

    def _current_worker(self, seat: Seat) -> WorkerProcess:
        assert seat.worker is not None
        worker, code = seat.worker, seat.worker.process.poll()
        if code is not None:
            self._record_problem(worker, f"ended by itself with code {code}")
        return worker

    def _record_problem(self, worker: WorkerProcess, problem: str) -> None:
        log = self.log_file(worker.number).read_text()[-1500:]
        self.problems.append(
            f"worker {worker.number} in seat {worker.seat} {problem}; end of its log: {log}"
        )


@asynccontextmanager
async def running_system(folder: Path) -> AsyncIterator[System]:
    """Start all processes and create the tables; `folder` keeps events and logs."""
    write_package(folder)
    async with AsyncExitStack() as stack:
        postgres = stack.enter_context(_postgres())
        await _prepare(postgres)
        system = System(
            folder,
            postgres,
            stack.enter_context(pooler(postgres.url(), POOL_SIZE)),
            stack.enter_context(redis_server()),
            await stack.enter_async_context(httpx.AsyncClient(timeout=REQUEST_SECONDS)),
            WallClock(folder),
        )
        stack.callback(_end_processes, system)
        for number in DIRECT + PROXIED + POOLED:
            url = system.pooler.url if number in POOLED else postgres.url()
            proxy = await stack.enter_async_context(TcpProxy(url)) if number in PROXIED else None
            seat = Seat(number, proxy.url if proxy else url, folder / f"slot-{number}", proxy)
            system.seats.append(seat)
            system.start_worker(seat)
        system.start_api()
        await system.wait_until_ready()
        yield system


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


def _end_processes(system: System) -> None:
    for worker in system.workers:
        if worker.process.poll() is None:
            worker.process.kill()
            worker.process.wait()
    if system.api is not None and system.api.process.poll() is None:
        system.kill_api()
