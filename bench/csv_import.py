"""Import of a CSV file of 100,000 rows over HTTP: how long it takes, and how much memory the API's
process takes.

    python -m bench.csv_import [--rows 100000] [--rounds 3]

One API process, a durable server (fsync and synchronous_commit on). Each round imports a small file
of 1,000 rows and the large one, both new, and reads the peak of the process's resident memory for
each (VmHWM, reset before). A third of the tasks goes to workers. Memory is flat when the large
file's peak is at most 16 MiB over the small one's. CPU time of process and database together tells
how much of the time was waiting for a busy machine. Prints a table and writes
bench/results/csv_import.json.
"""

import argparse
import asyncio
import contextlib
import csv
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import httpx

from bench.requests import LOCAL, RESULTS, TICK, listening, started
from task_service.embedded import EmbeddedPostgres, free_port
from task_service.migrations.upgrade import migrate
from task_service.settings import Settings
from task_service.store.database import create_engine

SMALL_ROWS = 1_000
MOST_SECONDS = 10
MOST_GROWTH_MIB = 16
COLUMNS = (
    "title",
    "description",
    "priority",
    "assigned_to",
    "due_date",
    "tags",
    "handler",
    "payload",
)


@dataclass
class Server:
    """The API's process, and with it the database's."""

    process: subprocess.Popen[bytes]
    postmaster: int

    @property
    def pids(self) -> tuple[int, int]:
        """Whose CPU time counts."""
        return self.process.pid, self.postmaster


@dataclass
class Run:
    """One import."""

    rows: int
    bytes: int
    seconds: float
    cpu_seconds: float
    peak_mib: float


def write_file(path: Path, rows: int, mark: str) -> None:
    """A file of so many rows; the mark makes it another one than those before."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for n in range(rows):
            handler = "noop" if n % 3 == 0 else ""
            payload = json.dumps({"order": n, "words": ["some", "more"]}) if handler else ""
            writer.writerow((
                f"{mark}, task {n}", f'What "task {n}" is about,\nin two lines.', ("low", "medium", "high")[n % 3],
                f"person {n % 500}", "2199-12-31T12:00:00Z", f"home;tag {n % 100}", handler, payload,
            ))  # fmt: skip


def reset_peak(process: subprocess.Popen[bytes]) -> None:
    """Let the peak of resident memory begin at the present amount."""
    Path(f"/proc/{process.pid}/clear_refs").write_text("5")


def peak_mib(process: subprocess.Popen[bytes]) -> float:
    """The peak of resident memory since the reset."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def cpu_seconds(*pids: int) -> float:
    """CPU time of these processes so far, their children's included: PostgreSQL's are its
    connections and helpers.
    """
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = entry.read_text().rpartition(")")[2].split()
            children.setdefault(int(fields[1]), []).append(int(entry.parent.name))
    total, left = 0, [*pids]
    while left:
        pid = left.pop()
        left += children.get(pid, [])
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += sum(map(int, fields[11:15]))
    return total / TICK


async def import_file(server: Server, client: httpx.AsyncClient, path: Path, rows: int) -> Run:
    """Import a file and check the report."""
    reset_peak(server.process)
    before, began = cpu_seconds(*server.pids), time.perf_counter()
    with path.open("rb") as file:
        answer = await client.post(
            "/api/v1/tasks:import", files={"file": (path.name, file, "text/csv")}
        )
        size = file.tell()
    seconds, cpu = time.perf_counter() - began, cpu_seconds(*server.pids) - before
    if answer.status_code != 201 or answer.json()["created"] != rows:
        raise RuntimeError(answer.text[:1000])
    return Run(rows, size, seconds, cpu, peak_mib(server.process))


async def run(rows: int, rounds: int) -> list[tuple[Run, Run]]:
    """The small and the large import of each round, after a small one that warms up."""
    found = []
    async with contextlib.AsyncExitStack() as stack:
        data, files = (
            Path(
                stack.enter_context(
                    tempfile.TemporaryDirectory(prefix="task-service-bench-", dir="/var/tmp")
                )
            )
            for _ in range(2)
        )
        options = {"shared_buffers": "512MB", "max_wal_size": "4GB"}
        database = stack.enter_context(EmbeddedPostgres(data, options=options))
        settings = Settings(_env_file=None, database_url=database.url())  # type: ignore[call-arg]
        await migrate(create_engine(settings, pooled=False))
        port = free_port()
        environment = {
            "DATABASE_URL": database.url(), "HOST": LOCAL, "PORT": str(port), "MANAGEMENT_PORT": "0",
            "AUTH_MODE": "open", "LOG_LEVEL": "ERROR", "RATE_LIMIT_UPLOAD": "none",
        }  # fmt: skip
        process = stack.enter_context(
            started([sys.executable, "-m", "task_service.cli", "api"], environment)
        )
        await listening(port)
        server = Server(process, int((database.data / "postmaster.pid").read_text().split()[0]))
        client = await stack.enter_async_context(
            httpx.AsyncClient(base_url=f"http://{LOCAL}:{port}", timeout=120)
        )
        connection = await asyncpg.connect(database.url())
        small, large = files / "small.csv", files / "large.csv"
        for number in range(rounds + 1):
            write_file(small, SMALL_ROWS, f"small {number}")
            first = await import_file(server, client, small, SMALL_ROWS)
            if number:
                write_file(large, rows, f"large {number}")
                found.append((first, await import_file(server, client, large, rows)))
        made = await connection.fetchval("SELECT count(*) FROM tasks")
        if made != (expected := rounds * rows + (rounds + 1) * SMALL_ROWS):
            raise RuntimeError(f"{made} tasks instead of {expected}")
        await connection.close()
    return found


def main() -> None:
    """Run, print, write; exit code 1 when it takes too long or too much."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    found = asyncio.run(run(arguments.rows, arguments.rounds))
    for small, large in found:
        for each in (small, large):
            print(
                f"{each.rows:9,} rows {each.bytes / 1e6:7.1f} MB {each.seconds:7.2f} s "
                f"{each.cpu_seconds:7.2f} s of CPU {each.peak_mib:7.1f} MiB peak"
            )
    seconds = statistics.median(large.seconds for _, large in found)
    growth = max(large.peak_mib - small.peak_mib for small, large in found)
    print(f"median {seconds:.2f} s, needed under {MOST_SECONDS} s for 100,000 rows")
    print(
        f"peak at most {growth:.1f} MiB over that of {SMALL_ROWS:,} rows, allowed {MOST_GROWTH_MIB}"
    )
    RESULTS.mkdir(exist_ok=True)
    figures = {
        "rows": arguments.rows, "bytes": found[0][1].bytes, "seconds": [large.seconds for _, large in found],
        "cpu_seconds": [large.cpu_seconds for _, large in found],
        "peak_mib": [large.peak_mib for _, large in found], "peak_mib_of_1000_rows": [s.peak_mib for s, _ in found],
    }  # fmt: skip
    (RESULTS / "csv_import.json").write_text(json.dumps(figures, indent=1) + "\n")
    sys.exit(seconds * 100_000 / arguments.rows >= MOST_SECONDS or growth > MOST_GROWTH_MIB)


if __name__ == "__main__":
    main()
