"""CPU time per request of get, create and list, against plain `def` endpoints, interleaved in one
run.

    python -m bench.requests [--requests 2000] [--rounds 5] [--redis /usr/bin/redis-server]

Two settings of ours: bare (AUTH_MODE=open, no limits, no traces) and full (a token on every
request, limits kept in a real Redis, every request traced to a collector that takes what comes,
tasks read through the cache). The rate is requests per second of CPU time of the server's process
(user and system, from /proc), which other load on the machine does not change as wall time would.
Prints a table and writes bench/results/requests.json.

Where the rest goes, by profile. Bare: the chain of dependencies (caller, permission, limits,
idempotency) and of layers (request id, body limit, headers, metrics), SQLAlchemy's switch between
coroutine and greenlet for each call, and on a create the second statement of the history and the
log line. Full, on top: the look-up of the user, so that a token is refused at once when it is
revoked, the call of Redis by redis-py, three spans and sending them. What was cut: pings of pooled
connections (three round trips), statements made anew for each list, signatures of tokens checked
again, OpenTelemetry's own instrumentations.
"""

import argparse
import asyncio
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
import httpx

from task_service.embedded import EmbeddedPostgres, free_port
from task_service.migrations.upgrade import migrate
from task_service.settings import Settings
from task_service.store.database import create_engine

TICK = os.sysconf("SC_CLK_TCK")
CLIENTS = 8
TASKS = 20_000
LOCAL = "127.0.0.1"
PASSWORD = "a long enough password"
NEEDED = {"bare": 0.7, "full": 0.4}
RESULTS = Path(__file__).parent / "results"
FILL = """
    INSERT INTO tasks (id, title, description, status, priority, tags, created_by, created_at)
    SELECT gen_random_uuid(), 'task ' || n, 'What task ' || n || ' is about.', 'pending', n % 4, '{home}', 'ada',
        now() - make_interval(secs => n)
    FROM generate_series(1, $1::integer) AS n
"""


@dataclass
class Server:
    """A running API and how to call it."""

    name: str
    process: subprocess.Popen[bytes]
    port: int
    prefix: str
    headers: dict[str, str] = field(default_factory=dict)

    def cpu_seconds(self) -> float:
        """User and system time of the process so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICK


@contextlib.contextmanager
def started(argv: list[str], environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process that ends with the block."""
    process = subprocess.Popen(argv, env={**os.environ, **environment}, stdout=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


async def listening(port: int) -> None:
    """Wait until somebody listens."""
    for _ in range(600):
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection(LOCAL, port)
            writer.close()
            return
        await asyncio.sleep(0.05)
    raise TimeoutError(port)


@contextlib.asynccontextmanager
async def collector() -> AsyncIterator[int]:
    """Take traces and drop them, answering as an OTLP collector does."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                await reader.readexactly(int(head.split(b"content-length:")[1].split(b"\r\n")[0]))
                writer.write(
                    b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n"
                )
        writer.close()

    server = await asyncio.start_server(serve, LOCAL, 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def call(server: Server, lines: list[str], bodies: list[bytes], expected: int) -> None:
    """Send requests over kept-alive connections, one after the other on each; RuntimeError for
    another status.
    """
    todo = iter(zip(lines, bodies, strict=True))
    plain = "".join(f"{name}: {value}\r\n" for name, value in server.headers.items())

    async def client() -> None:
        reader, writer = await asyncio.open_connection(LOCAL, server.port)
        for line, body in todo:
            head = f"{line} HTTP/1.1\r\nhost: bench\r\n{plain}"
            if body:
                head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
            writer.write(head.encode() + b"\r\n" + body)
            answer = (await reader.readuntil(b"\r\n\r\n")).lower()
            content = await reader.readexactly(
                int(answer.split(b"content-length:")[1].split(b"\r\n")[0])
            )
            if int(answer[9:12]) != expected:
                raise RuntimeError(f"{server.name}: {line}: {answer!r} {content[:300]!r}")
        writer.close()

    await asyncio.gather(*(client() for _ in range(CLIENTS)))


async def measure(server: Server, operation: str, ids: list[str], count: int) -> float:
    """Requests per second of the server's CPU time."""
    bodies = [b""] * count
    if operation == "get":
        lines, expected = [f"GET {server.prefix}/{ids[i % len(ids)]}" for i in range(count)], 200
    elif operation == "list":
        count = max(count // 4, 1)
        lines, bodies, expected = [f"GET {server.prefix}"] * count, bodies[:count], 200
    else:
        lines, expected = [f"POST {server.prefix}"] * count, 201
        bodies = [
            json.dumps({"title": f"task {i}", "priority": "high", "tags": ["phone"]}).encode()
            for i in range(count)
        ]
    before = server.cpu_seconds()
    await call(server, lines, bodies, expected)
    return count / (server.cpu_seconds() - before)


async def token(port: int) -> str:
    """Log the administrator in."""
    async with httpx.AsyncClient(base_url=f"http://{LOCAL}:{port}") as client:
        answer = await client.post(
            "/api/v1/auth/token", data={"username": "admin", "password": PASSWORD}
        )
        return str(answer.raise_for_status().json()["access_token"])


def environment_of(
    name: str, base: dict[str, str], redis_port: int, otlp_port: int
) -> dict[str, str]:
    """The settings of one of our two servers."""
    if name == "bare":
        return base | {"AUTH_MODE": "open"}
    return base | {
        "AUTH_MODE": "required", "SECRET_KEY": "Kd83nQz0vR5tYw2xLp9sJm4hGf7bTc1e", "ADMIN_USERNAME": "admin",
        "ADMIN_PASSWORD": PASSWORD, "REDIS_URL": f"redis://{LOCAL}:{redis_port}/0", "REDIS_TIMEOUT_SECONDS": "1",
        "RATE_LIMIT_READ": "10000000/minute", "RATE_LIMIT_WRITE": "10000000/minute", "OTEL_ENABLED": "true",
        "OTEL_EXPORTER_ENDPOINT": f"http://{LOCAL}:{otlp_port}",
    }  # fmt: skip


async def run(count: int, rounds: int, redis: str) -> dict[str, dict[str, list[float]]]:
    """Interleave all servers and operations; rates by operation and server."""
    figures: dict[str, dict[str, list[float]]] = {}
    async with contextlib.AsyncExitStack() as stack:
        folder = Path(
            stack.enter_context(
                tempfile.TemporaryDirectory(prefix="task-service-bench-", dir="/var/tmp")
            )
        )
        database = stack.enter_context(
            EmbeddedPostgres(folder, options={"shared_buffers": "512MB"})
        )
        settings = Settings(_env_file=None, database_url=database.url())  # type: ignore[call-arg]
        await migrate(create_engine(settings, pooled=False))
        connection = await asyncpg.connect(database.url())
        await connection.execute(FILL, TASKS)
        await connection.execute("ANALYZE")
        ids = [str(row[0]) for row in await connection.fetch("SELECT id FROM tasks LIMIT 2000")]
        await connection.close()
        otlp_port, redis_port = await stack.enter_async_context(collector()), free_port()
        stack.enter_context(
            started([redis, "--port", str(redis_port), "--save", "", "--bind", LOCAL], {})
        )
        await listening(redis_port)
        servers = []
        for name in ("plain", "bare", "full"):
            port = free_port()
            base = {
                "DATABASE_URL": database.url(),
                "PORT": str(port),
                "MANAGEMENT_PORT": "0",
                "HOST": LOCAL,
                "LOG_LEVEL": "WARNING",
            }
            argv = [sys.executable, "-m", "task_service.cli", "api"]
            if name == "plain":
                argv = [
                    sys.executable,
                    "-m",
                    "uvicorn",
                    "bench.plain_api:app",
                    "--port",
                    str(port),
                    "--no-access-log",
                    "--log-level",
                    "warning",
                ]
                environment = base
            else:
                environment = environment_of(name, base, redis_port, otlp_port)
            servers.append(
                Server(
                    name,
                    stack.enter_context(started(argv, environment)),
                    port,
                    "/tasks" if name == "plain" else "/api/v1/tasks",
                )
            )
            await listening(port)
        servers[2].headers = {"authorization": f"Bearer {await token(servers[2].port)}"}
        for number in range(rounds + 1):  # the first one warms up
            for operation in ("get", "create", "list"):
                for server in servers:
                    rate = await measure(server, operation, ids, count)
                    if number:
                        figures.setdefault(operation, {}).setdefault(server.name, []).append(rate)
    return figures


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--redis", default="redis-server")
    arguments = parser.parse_args()
    began = time.monotonic()
    figures = asyncio.run(run(arguments.requests, arguments.rounds, arguments.redis))
    for operation, rates in figures.items():
        plain = statistics.median(rates["plain"])
        for name, values in rates.items():
            median = statistics.median(values)
            needed = f"ratio {median / plain:.2f}, needed {NEEDED[name]}" if name in NEEDED else ""
            print(
                f"{operation:7} {name:6} {median:7,.0f} requests per second of CPU  {1e6 / median:6,.0f} µs  {needed}"
            )
    print(f"in {time.monotonic() - began:.0f} s")
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "requests.json").write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
