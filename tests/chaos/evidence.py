"""Tables of a chaos run: effects of handlers, injected faults, and events of processes.

All times are times of the database. Processes are numbered from 0; a fault without a process
affected all of them.
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

APPLICATION_NAME = "chaos"
"""Application name of the run's own connections, which faults do not affect."""
LEASE_LOSING_KINDS = {
    "stop",
    "terminate",
    "stall",
    "lost_responses",
    "postgres",
    "backend",
    "disk_full",
    "pooler",
    "machine",
}
"""Kinds through which a living worker may lose its lease. `machine`: no CPU time for a while."""
CREATE = f"""
{SIMULATE_FULL_DISK}
CREATE TABLE effects (
    task_id uuid NOT NULL, fence bigint NOT NULL, worker_id uuid NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX effects_task ON effects (task_id, fence);
CREATE TRIGGER full_disk BEFORE INSERT ON effects
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_when_full();

-- One task per minute, including missed minutes.
INSERT INTO schedules (id, name, cron, template, catch_up, next_run_at) VALUES (
    gen_random_uuid(), 'chaos', '* * * * *', '{{"title": "scheduled", "handler": "quick"}}',
    'all', date_trunc('minute', now()) + interval '1 minute'
);

-- Each title from `chaos 1` to `chaos N` must exist once.
CREATE TABLE chaos_batches (name text PRIMARY KEY);
CREATE TABLE chaos_plan (tasks integer NOT NULL);
CREATE TABLE chaos_processes (
    process integer PRIMARY KEY, seat integer NOT NULL, ended timestamptz NOT NULL
);
-- `loses_lease`: true if a living worker may lose its lease through the fault.
CREATE TABLE chaos_faults (
    kind text NOT NULL, process integer, began timestamptz NOT NULL, ended timestamptz NOT NULL,
    loses_lease boolean NOT NULL
);
CREATE TABLE chaos_events (
    process integer NOT NULL, event text NOT NULL CHECK (event IN ('start', 'alive', 'end')),
    task_id uuid NOT NULL, fence bigint NOT NULL, worker_id uuid NOT NULL, at timestamptz NOT NULL
);
CREATE INDEX chaos_events_run ON chaos_events (task_id, fence);

-- Runs from the events of their process. A run without a later event ended with its process.
CREATE VIEW chaos_runs AS
SELECT s.process, s.task_id, s.fence, s.worker_id, s.at AS began, coalesce(e.at, p.ended) AS ended
FROM chaos_events AS s
JOIN chaos_processes AS p USING (process)
CROSS JOIN LATERAL (
    SELECT max(at) AS at FROM chaos_events AS n
    WHERE n.task_id = s.task_id AND n.fence = s.fence AND n.event <> 'start'
) AS e
WHERE s.event = 'start';

-- A fault between the last heartbeat and the death of the older worker is the cause of the overlap.
CREATE VIEW chaos_overlaps AS
SELECT
    older.task_id, older.fence AS older_fence, newer.fence AS newer_fence, older.process,
    older.worker_id, newer.began, least(older.ended, newer.ended) - newer.began AS lasted,
    (
        SELECT f.kind
        FROM workers AS w
        JOIN chaos_faults AS f ON f.began <= w.dead_at AND f.ended >= w.heartbeat_at
        WHERE w.id = older.worker_id AND f.loses_lease
            AND (f.process IS NULL OR f.process = older.process)
        ORDER BY f.process IS NULL, f.kind = 'machine', f.ended - f.began DESC
        LIMIT 1
    ) AS cause
FROM chaos_runs AS older
JOIN chaos_runs AS newer
    ON newer.task_id = older.task_id AND newer.fence > older.fence AND newer.began < older.ended;
"""
END_SCHEDULE = "UPDATE schedules SET enabled = false WHERE name = 'chaos'"


@dataclass(frozen=True, slots=True)
class InjectedFault:
    """A fault on one process or (None) on all, with its time by the machine's clock."""

    kind: str
    process: int | None
    began: float
    ended: float

    @property
    def loses_lease(self) -> bool:
        """True if a living worker may lose its lease through the fault."""
        return self.kind in LEASE_LOSING_KINDS


@dataclass(frozen=True, slots=True)
class Process:
    """An ended worker process and the file with its events."""

    number: int
    seat: int
    ended: float
    events: Path


async def load(
    connection: asyncpg.Connection,
    tasks: int,
    processes: Iterable[Process],
    faults: Iterable[InjectedFault],
) -> None:
    """Write the injected faults and the events into the tables of the run."""
    await connection.execute("INSERT INTO chaos_plan VALUES ($1)", tasks)
    clock = time.time() - machine_seconds()
    ended: list[tuple[object, ...]] = []
    events: list[tuple[object, ...]] = []
    injected = list(faults)
    for process in processes:
        ended.append((process.number, process.seat, _time(clock, process.ended)))
        for event, *fields in _lines(process.events):
            if event == STALLED:
                began, end = map(float, fields)
                injected.append(InjectedFault("machine", process.number, began, end))
                continue
            at, task, fence, worker = fields
            time_ = _time(clock, float(at))
            events.append((process.number, event, UUID(task), int(fence), UUID(worker), time_))
    rows = [
        (f.kind, f.process, _time(clock, f.began), _time(clock, f.ended), f.loses_lease)
        for f in injected
    ]
    await connection.copy_records_to_table("chaos_processes", records=ended)
    await connection.copy_records_to_table("chaos_events", records=events)
    await connection.copy_records_to_table("chaos_faults", records=rows)
    await connection.execute("ANALYZE")


def _lines(file: Path) -> list[list[str]]:
    return [line.split() for line in file.read_text().splitlines()] if file.exists() else []


def _time(clock: float, seconds: float) -> datetime:
    return datetime.fromtimestamp(clock + seconds, UTC)
