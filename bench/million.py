"""How long requests take with a million tasks in the database: get, lists by every filter,
statistics, text search.

    python -m bench.million [--tasks 1000000] [--requests 200] [--folder FOLDER]

A real API process with its default pool, authentication open, on a durable PostgreSQL; one client,
one request after the other. What is filtered by varies: frequent, rare, absent (`bench.fill`).
`wall` is the time from the first byte sent to the last one read; `cpu` is what the API process and
PostgreSQL's backends worked meanwhile, which other load on the machine changes little: on an idle
one they are nearly the same. `--folder` keeps the database there, or takes the one that was kept.
Prints a table, worst first within each group, says which limits were missed, compares the
statistics with a count, and writes bench/results/million.json.
"""

import argparse
import asyncio
import contextlib
import json
import math
import random
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlencode

import asyncpg

from bench.fill import TAGS, WORDS, fill, word
from bench.requests import LOCAL, RESULTS, listening, started
from task_service.domain.priorities import Priority
from task_service.domain.statuses import Status
from task_service.embedded import EmbeddedPostgres, free_port
from task_service.migrations.upgrade import migrate
from task_service.queue.counters import fold
from task_service.settings import Settings
from task_service.store.database import create_engine
from tests.support.tasks import add_worker

LIMITS = {
    "get": 20.0, "list": 20.0, "list by other sorts": 250.0, "list by tag and derived status": 250.0,
    "statistics": 10.0, "text up to 1,000": 50.0, "text": 250.0,
}  # fmt: skip
"""Milliseconds at the 99th percentile, by group."""
SLOWEST = 1000.0
"""No single request may take longer."""
SORTS = ("-created_at", "created_at", "due_date", "-priority", "-updated_at")
DERIVED = ("pending", "processing", "failed")
"""Statuses that no index has beside a tag."""
MANY = 6
"""So many frequent words are combined with all else."""
TASKS_PATH = "/api/v1/tasks"
COUNTED = "SELECT status, priority, count(*) FROM task_view WHERE deleted_at IS NULL GROUP BY 1, 2"
Queries = dict[str, list[dict[str, object]]]


class Work:
    """The CPU time of processes and of their children, as the kernel's scheduler counts it."""

    def __init__(self, *processes: int) -> None:
        self._processes = processes

    def milliseconds(self) -> float:
        """So far. Of threads and children that have ended nothing is counted."""
        nanoseconds = 0
        for pid in self._processes:
            folder = Path(f"/proc/{pid}")
            children = (folder / f"task/{pid}/children").read_text().split()
            for process in (folder, *(Path(f"/proc/{child}") for child in children)):
                with contextlib.suppress(OSError):
                    nanoseconds += sum(
                        int(t.read_text().split()[0]) for t in process.glob("task/*/schedstat")
                    )
        return nanoseconds / 1e6


class Client:
    """One kept-alive connection."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, work: Work
    ) -> None:
        self._reader, self._writer, self._work = reader, writer, work

    async def timed(self, target: str) -> tuple[float, float]:
        """Milliseconds of wall time and of work."""
        worked = self._work.milliseconds()
        taken, _ = await self.get(target)
        return taken, self._work.milliseconds() - worked

    async def get(self, target: str) -> tuple[float, bytes]:
        """Milliseconds and the body. RuntimeError for any other status than 200."""
        begun = time.perf_counter()
        self._writer.write(f"GET {target} HTTP/1.1\r\nhost: bench\r\n\r\n".encode())
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        body = await self._reader.readexactly(
            int(head.split(b"content-length:")[1].split(b"\r\n")[0])
        )
        taken = (time.perf_counter() - begun) * 1000
        if b" 200 " not in head[:16]:
            raise RuntimeError(f"{target}: {head!r} {body[:300]!r}")
        return taken, body


def lists(draw: random.Random) -> Queries:
    """Filters that have an index, by name, with several values of each."""
    now = datetime.now(UTC)
    days = [now - timedelta(days=draw.uniform(0, 360)) for _ in range(5)]
    found: Queries = {"no filter": [{}]}
    found |= {f"status {s}": [{"status": s}] for s in Status}
    found["several statuses"] = [
        {"status": ["failed", "scheduled"]},
        {"status": ["pending", "processing", "cancelled"]},
    ]
    found |= {f"priority {p}": [{"priority": p}] for p in Priority}
    found["status and priority"] = [
        {"status": s, "priority": p} for s in ("pending", "failed") for p in Priority
    ]
    found["assigned_to"] = [{"assigned_to": f"person {n}"} for n in (0, 1, 10, 100, 499, 9999)]
    found["assigned_to, status"] = [
        {"assigned_to": f"person {n}", "status": "pending"} for n in (0, 10, 499, 9999)
    ]
    found["tag"] = [{"tag": f"tag {n}"} for n in (0, 1, 10, 100, TAGS - 1, 9999)]
    found["tags"] = [
        {"tag": ["tag 0", "tag 1"]},
        {"tag": ["tag 0", f"tag {TAGS - 1}"]},
        {"tag": ["tag 3", "tag 40"]},
    ]
    found["tag, status"] = [
        {"tag": f"tag {n}", "status": "in_progress"} for n in (0, 10, 100, 9999)
    ]
    found["handler"] = [{"handler": f"handler-{n}"} for n in (1, 2, 3, 4, 9)]
    found["handler, failed"] = [{"handler": f"handler-{n}", "status": "failed"} for n in (1, 4, 9)]
    found["queue"] = [{"queue": q} for q in ("default", "mail", "none")]
    found["created"] = [
        {"created_after": d.isoformat(), "created_before": (d + timedelta(days=2)).isoformat()}
        for d in days
    ]
    found["due"] = [
        {"due_after": d.isoformat(), "due_before": (d + timedelta(days=2)).isoformat()}
        for d in days
    ]
    found["created, priority"] = [{"created_before": days[0].isoformat(), "priority": "urgent"}]
    return found


def sorted_by(queries: Queries, sorts: Iterable[str]) -> Queries:
    """Each in these orders."""
    return {
        name: [q | {"sort": sort} for q in several for sort in sorts]
        for name, several in queries.items()
    }


def texts(counts: dict[str, int]) -> tuple[Queries, Queries]:
    """Searches for words that up to 1,000 tasks have, and for all others; `counts` tells of how
    many tasks.
    """
    few = [w for w, n in counts.items() if n <= 1000]
    many = [w for w, n in counts.items() if n > 1000][:MANY]
    small: Queries = {
        "a word of up to 1,000": [{"text": w} for w in few],
        "a word of up to 1,000, by other sorts": [
            {"text": w, "sort": s} for w in few for s in SORTS[1:]
        ],
        "two words, one of up to 1,000": [{"text": f"{w} {word(0)}"} for w in few],
        "a word of up to 1,000 and a status": [
            {"text": w, "status": s} for w in few for s in ("pending", "failed")
        ],
        "an absent word": [{"text": "nowhere"}, {"text": "überall niemals"}, {"text": "会议"}],
        "no word": [{"text": "%"}],
    }
    large: Queries = {
        "a frequent word": [{"text": w} for w in many],
        "a frequent word, by other sorts": [
            {"text": w, "sort": s} for w in many for s in SORTS[1:]
        ],
        "two frequent words": [{"text": f"{a} {b}"} for a in many for b in many if a < b],
        "a frequent and an absent word": [{"text": f"{w} nowhere"} for w in many],
        "the beginning of words": [{"text": f"{w[:3]}*"} for w in [*few, *many]],
        "a frequent word and a status": [{"text": w, "status": s} for w in many for s in Status],
        "a frequent word and a person": [
            {"text": w, "assigned_to": f"person {n}"} for w in many for n in (0, 50, 499)
        ],
        "a frequent word and a tag": [
            {"text": w, "tag": f"tag {n}"} for w in many for n in (0, 50, 1999)
        ],
        "a frequent word of the last day": [
            {"text": w, "created_after": _days_ago(1)} for w in many
        ],
        "a frequent word of a year ago": [
            {"text": w, "created_before": _days_ago(364)} for w in many
        ],
    }
    return small, large


def _days_ago(days: int) -> str:
    return (datetime.now(UTC) - timedelta(days=days)).isoformat()


def percentile(values: list[float], part: float) -> float:
    """The least value that this part of them does not exceed (nearest rank)."""
    return sorted(values)[math.ceil(len(values) * part) - 1]


async def measure(client: Client, targets: list[str], count: int) -> dict[str, float]:
    """Milliseconds of so many requests at least, each target at least twice; the first round is not
    counted.
    """
    for target in targets:
        await client.get(target)
    rounds = max(2, -(-count // len(targets)))
    taken = [await client.timed(target) for target in targets for _ in range(rounds)]
    figures: dict[str, float] = {}
    for name, values in (("wall", [wall for wall, _ in taken]), ("cpu", [cpu for _, cpu in taken])):
        figures |= {f"{name} p50": percentile(values, 0.5), f"{name} p99": percentile(values, 0.99)}
        figures[f"{name} max"] = max(values)
    return figures


async def measure_all(
    ports: tuple[int, int], connection: asyncpg.Connection, count: int, work: Work
) -> dict[str, object]:
    """All groups."""
    draw = random.Random(1)
    ids = [
        str(r[0])
        for r in await connection.fetch("SELECT id FROM tasks WHERE deleted_at IS NULL LIMIT 3000")
    ]
    ranks = (0, 2, 10, 30, 100, 300, 1000, 3000, 10_000, WORDS - 1)
    matching = "SELECT count(*) FROM tasks WHERE task_words(title, description) @@ plainto_tsquery('simple', $1)"
    counts = {
        word(r): await connection.fetchval(f"{matching} AND deleted_at IS NULL", word(r))
        for r in ranks
    }
    small, large = texts(counts)
    client, management = [
        Client(*await asyncio.open_connection(LOCAL, port), work) for port in ports
    ]
    figures: dict[str, dict[str, dict[str, float]]] = {
        "get": {
            "get": await measure(
                client, [f"{TASKS_PATH}/{i}" for i in draw.sample(ids, 100)], count
            )
        },
        "statistics": {
            "summary": await measure(client, [f"{TASKS_PATH}/stats/summary"], count),
            "queues": await measure(client, ["/api/v1/queues"], count),
            "metrics": await measure(management, ["/metrics"], count),
        },
    }
    filters = lists(draw)
    groups: dict[str, Queries] = {
        "list": sorted_by(filters, SORTS[:1]) | sorted_by({"every sort": [{}]}, SORTS),
        "list by other sorts": sorted_by(filters, SORTS[1:]),
        "list by tag and derived status": {
            f"tag, {s}": [{"tag": f"tag {n}", "status": s} for n in (0, 3, 10, 100, 9999)]
            for s in DERIVED
        },
        "text up to 1,000": small,
        "text": large,
    }
    for group, queries in groups.items():
        figures[group] = {
            name: await measure(
                client, [f"{TASKS_PATH}?{urlencode(q, doseq=True)}" for q in several], count
            )
            for name, several in queries.items()
        }
    deep = [
        f"{TASKS_PATH}?{urlencode({'sort': s, 'cursor': await _far(client, s)})}" for s in SORTS
    ]
    figures["list"]["a page far down"] = await measure(client, deep, count)
    return {"tasks with each word": counts, "milliseconds": figures}


async def _far(client: Client, sort: str) -> str:
    query = {"sort": sort, "limit": "200"}
    for _ in range(20):
        _, body = await client.get(f"{TASKS_PATH}?{urlencode(query)}")
        query["cursor"] = json.loads(body)["next_cursor"]
    return query["cursor"]


async def check_counts(client: Client, connection: asyncpg.Connection) -> None:
    """Nothing is under way: the statistics must be what a count says. RuntimeError when they are
    not.
    """
    shown = json.loads((await client.get(f"{TASKS_PATH}/stats/summary"))[1])
    rows = await connection.fetch(COUNTED)
    for kind, names, column in (("by_status", list(Status), 0), ("by_priority", list(Priority), 1)):
        keys = [n if column == 0 else i for i, n in enumerate(names)]
        counted = {
            n: sum(r[2] for r in rows if r[column] == k) for n, k in zip(names, keys, strict=True)
        }
        if shown[kind] != counted:
            raise RuntimeError(f"{kind}: shown {shown[kind]}, counted {counted}")


async def settled(connection: asyncpg.Connection) -> None:
    """What filling left to do is done: else the server's own work is measured, on the same
    processors.
    """
    await connection.execute("CHECKPOINT")
    busy = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'autovacuum worker'"
    quiet = 0
    while quiet < 3:
        await asyncio.sleep(1)
        quiet = 0 if await connection.fetchval(busy) else quiet + 1


@contextlib.contextmanager
def folder_of(given: Path | None) -> Iterator[Path]:
    """The given folder, which stays, or one that goes."""
    if given is None:
        with tempfile.TemporaryDirectory(prefix="task-service-bench-", dir="/var/tmp") as folder:
            yield Path(folder)
    else:
        given.mkdir(parents=True, exist_ok=True)
        yield given


async def run(tasks: int, count: int, folder: Path) -> dict[str, object]:
    """Fill, unless that was done, and measure."""
    options = {"shared_buffers": "1GB", "max_wal_size": "4GB"}
    with EmbeddedPostgres(folder, options=options) as server:
        settings = Settings(_env_file=None, database_url=server.url())  # type: ignore[call-arg]
        await migrate(create_engine(settings, pooled=False))
        connection = await asyncpg.connect(server.url())
        if not await connection.fetchval("SELECT count(*) FROM tasks"):
            await fill(connection, tasks, await add_worker(connection))
        await connection.execute(
            "UPDATE workers SET heartbeat_at = now() + interval '1 day'"
        )  # it holds what it holds
        await connection.execute("SET work_mem = '512MB'")  # for the counts below
        await fold(connection)
        await connection.execute("VACUUM (ANALYZE) task_counts, task_deltas")
        await settled(connection)
        ports = free_port(), free_port()
        environment = {
            "DATABASE_URL": server.url(), "HOST": LOCAL, "PORT": str(ports[0]), "MANAGEMENT_HOST": LOCAL,
            "MANAGEMENT_PORT": str(ports[1]), "AUTH_MODE": "open", "LOG_LEVEL": "WARNING",
        }  # fmt: skip
        with started([sys.executable, "-m", "task_service.cli", "api"], environment) as api:
            assert server.process is not None
            work = Work(api.pid, server.process.pid)
            for port in ports:
                await listening(port)
            await check_counts(
                Client(*await asyncio.open_connection(LOCAL, ports[0]), work), connection
            )
            figures = await measure_all(ports, connection, count, work)
        await connection.close()
    return figures


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tasks", type=int, default=1_000_000)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    with folder_of(arguments.folder) as folder:
        figures = asyncio.run(run(arguments.tasks, arguments.requests, folder))
    groups: dict[str, dict[str, dict[str, float]]] = figures["milliseconds"]  # type: ignore[assignment]
    for group, cases in groups.items():
        for name, found in sorted(cases.items(), key=lambda case: -case[1]["cpu p99"]):
            missed = [
                k
                for k in ("wall", "cpu")
                if found[f"{k} p99"] > LIMITS[group] or found[f"{k} max"] > SLOWEST
            ]
            shown = "  ".join(f"{k} {found[k]:7.1f}" for k in found)
            print(
                f"{group:30} {name:40} {shown} ms{'  MISSED: ' + ', '.join(missed) if missed else ''}"
            )
    RESULTS.mkdir(exist_ok=True)
    kept = {"tasks": arguments.tasks, **figures}
    (RESULTS / "million.json").write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
