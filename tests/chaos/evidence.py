"""What a chaos run writes beside the product's tables: effects, and in the end what was done and seen.

All times are the database's. Processes are numbered from 0; a fault without a process concerned all of them.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import asyncpg

from task_service.clocks import machine_seconds
from tests.chaos.handlers import STALLED
from tests.support.full_disk import SIMULATE_FULL_DISK

OURS = "chaos"
"""The application name of the run's own connections: no fault is for them."""
CUTTING = {
    "stop",
    "terminate",
    "stall",
    "deaf",
    "postgres",
    "backend",
    "disk_full",
    "pooler",
    "machine",
}
"""Kinds by which a worker may lose its lease and live on. `machine`: it or the server had no processor for a while."""
CREATE = f"""
{SIMULATE_FULL_DISK}
CREATE TABLE effects (
    task_id uuid NOT NULL, fence bigint NOT NULL, worker_id uuid NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX effects_task ON effects (task_id, fence);
CREATE TRIGGER full_disk BEFORE INSERT ON effects FOR EACH STATEMENT EXECUTE FUNCTION refuse_when_full();

-- A task each minute, also those that were missed.
INSERT INTO schedules (id, name, cron, template, catch_up, next_run_at) VALUES (
    gen_random_uuid(), 'chaos', '* * * * *', '{{"title": "scheduled", "handler": "quick"}}', 'all',
    date_trunc('minute', now()) + interval '1 minute'
);

-- Titles `chaos 1` to `chaos N` are to be there, once each.
CREATE TABLE chaos_batches (name text PRIMARY KEY);
CREATE TABLE chaos_plan (tasks integer NOT NULL);
CREATE TABLE chaos_processes (process integer PRIMARY KEY, seat integer NOT NULL, ended timestamptz NOT NULL);
-- `cuts`: whether a worker may lose its lease by it, and live on.
CREATE TABLE chaos_faults (
    kind text NOT NULL, process integer, began timestamptz NOT NULL, ended timestamptz NOT NULL, cuts boolean NOT NULL
);
CREATE TABLE chaos_notes (
    process integer NOT NULL, what text NOT NULL CHECK (what IN ('start', 'alive', 'end')),
    task_id uuid NOT NULL, fence bigint NOT NULL, worker_id uuid NOT NULL, at timestamptz NOT NULL
);
CREATE INDEX chaos_notes_run ON chaos_notes (task_id, fence);

-- A run as its process noted it. One without an end or a sign of life ended with its process.
CREATE VIEW chaos_runs AS
SELECT s.process, s.task_id, s.fence, s.worker_id, s.at AS began, coalesce(e.at, p.ended) AS ended
FROM chaos_notes AS s
JOIN chaos_processes AS p USING (process)
CROSS JOIN LATERAL (
    SELECT max(at) AS at FROM chaos_notes AS n WHERE n.task_id = s.task_id AND n.fence = s.fence AND n.what <> 'start'
) AS e
WHERE s.what = 'start';

-- From its last renewal to its death nobody heard of this worker; what befell its process meanwhile explains the loss.
CREATE VIEW chaos_overlaps AS
SELECT
    older.task_id, older.fence AS older_fence, newer.fence AS newer_fence, older.process, older.worker_id,
    newer.began, least(older.ended, newer.ended) - newer.began AS lasted,
    (
        SELECT f.kind
        FROM workers AS w
        JOIN chaos_faults AS f ON f.began <= w.dead_at AND f.ended >= w.heartbeat_at
        WHERE w.id = older.worker_id AND f.cuts AND (f.process IS NULL OR f.process = older.process)
        ORDER BY f.process IS NULL, f.kind = 'machine', f.ended - f.began DESC
        LIMIT 1
    ) AS cause
FROM chaos_runs AS older
JOIN chaos_runs AS newer ON newer.task_id = older.task_id AND newer.fence > older.fence AND newer.began < older.ended;
"""
END_SCHEDULE = "UPDATE schedules SET enabled = false WHERE name = 'chaos'"


@dataclass(frozen=True, slots=True)
class Done:
    """A fault that was done, to one process or (None) to all: from when to when, by the machine's clock."""

    kind: str
    process: int | None
    began: float
    ended: float

    @property
    def cuts(self) -> bool:
        """Whether a worker may lose its lease by it, and live on."""
        return self.kind in CUTTING


@dataclass(frozen=True, slots=True)
class Process:
    """A worker process that has ended, and the file of its notes."""

    number: int
    seat: int
    ended: float
    notes: Path


async def load(
    connection: asyncpg.Connection, tasks: int, processes: Iterable[Process], faults: Iterable[Done]
) -> None:
    """Write what was done and seen into the tables of the run."""
    await connection.execute("INSERT INTO chaos_plan VALUES ($1)", tasks)
    clock = time.time() - machine_seconds()
    ended, noted, done = [], [], list(faults)
    for process in processes:
        ended.append((process.number, process.seat, _time(clock, process.ended)))
        for what, *words in _lines(process.notes):
            if what == STALLED:
                done.append(Done("machine", process.number, float(words[0]), float(words[1])))
            else:
                at, task, fence, worker = words
                noted.append(
                    (
                        process.number,
                        what,
                        UUID(task),
                        int(fence),
                        UUID(worker),
                        _time(clock, float(at)),
                    )
                )
    rows = [(f.kind, f.process, _time(clock, f.began), _time(clock, f.ended), f.cuts) for f in done]
    await connection.copy_records_to_table("chaos_processes", records=ended)
    await connection.copy_records_to_table("chaos_notes", records=noted)
    await connection.copy_records_to_table("chaos_faults", records=rows)
    await connection.execute("ANALYZE")


def _lines(notes: Path) -> list[list[str]]:
    return [line.split() for line in notes.read_text().splitlines()] if notes.exists() else []


def _time(clock: float, seconds: float) -> datetime:
    return datetime.fromtimestamp(clock + seconds, UTC)
