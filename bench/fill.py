"""Fills a database with many tasks as a busy service would have them after a year; for benches.

Seven of ten were ended by workers, one is in the queue, two are people's. What is open is recent.
Words, tags and people follow Zipf's law: a few are everywhere, most are rare. Everything comes from
one seed.
"""

import itertools
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg

CHUNK = 50_000
WORDS, TAGS, PEOPLE = 50_000, 2_000, 500
YEAR_SECONDS = 365 * 24 * 3600
TASK = (
    "id", "title", "description", "status", "priority", "assigned_to", "due_date", "tags", "handler", "queue", "run_at",
    "created_by", "created_at", "updated_at", "status_at", "deleted_at",
)  # fmt: skip
QUEUED = (
    "task_id",
    "queue",
    "priority",
    "run_at",
    "state",
    "attempt",
    "max_attempts",
    "fence",
    "worker_id",
    "handler",
)
RUN = (
    "task_id",
    "fence",
    "attempt",
    "worker_id",
    "claimed_at",
    "finished_at",
    "outcome",
    "final",
    "hidden",
    "error",
)


def word(rank: int) -> str:
    """The word of a rank, 0 being the most frequent.

    >>> word(0), word(49_999)
    ('babe', 'zuxute')
    """
    letters, number = "", rank
    while len(letters) < 4 or number:
        number, syllable = divmod(number, 20 * 4)
        letters += (
            "bcdfghjklmnprstvwxyz"[syllable // 4] + "aeiu"[(syllable + len(letters) // 2) % 4]
        )
    return letters


class Zipf:
    """Draws ranks, rank r with a frequency of 1 / (r + 1)."""

    def __init__(self, count: int, draw: random.Random) -> None:
        self._ranks, self._draw = range(count), draw
        self._weights = list(itertools.accumulate(1 / (rank + 1) for rank in self._ranks))

    def some(self, count: int) -> list[int]:
        """So many ranks."""
        return self._draw.choices(self._ranks, cum_weights=self._weights, k=count)


class Made:
    """Rows of one chunk, by table."""

    def __init__(self) -> None:
        self.tasks: list[tuple[Any, ...]] = []
        self.queue: list[tuple[Any, ...]] = []
        self.runs: list[tuple[Any, ...]] = []


class Maker:
    """Makes tasks in the order of their creation."""

    def __init__(self, count: int, worker: UUID, seed: int) -> None:
        self._count, self._worker, self._draw = count, worker, random.Random(seed)
        self._words, self._tags, self._people = (Zipf(n, self._draw) for n in (WORDS, TAGS, PEOPLE))
        self._now = datetime.now(UTC)
        self._start = self._now - timedelta(seconds=YEAR_SECONDS)

    def chunks(self) -> Iterator[Made]:
        """All of them."""
        for first in range(0, self._count, CHUNK):
            made = Made()
            for number in range(first, min(first + CHUNK, self._count)):
                self._add(made, number)
            yield made

    def _add(self, made: Made, number: int) -> None:
        draw = self._draw
        created = self._start + timedelta(seconds=YEAR_SECONDS * number / self._count)
        task_id = self._id(created)
        recent = number > self._count * 0.8
        kind = draw.random()
        queued = kind < (0.46 if recent else 0.01)  # in all a tenth
        by_worker = queued or draw.random() < (0.5 if recent else 0.825)
        status = None if by_worker else self._own_status(recent)
        deleted = None if queued or draw.random() > 0.02 else created + timedelta(hours=1)
        handler = f"handler-{draw.choice((1, 1, 1, 1, 1, 2, 2, 2, 3, 4))}" if by_worker else None
        priority = draw.choices((0, 1, 2, 3), (5, 15, 60, 20))[0]
        queue = "mail" if draw.random() < 0.05 else "default"
        person = (
            f"person {self._people.some(1)[0]}" if not by_worker or draw.random() < 0.1 else None
        )
        due = created + timedelta(days=draw.randint(1, 60)) if draw.random() < 0.3 else None
        chosen = self._tags.some(draw.randint(1, 3)) if draw.random() < 0.3 else []
        tags = list(dict.fromkeys(f"tag {t}" for t in chosen))
        later = self._now + timedelta(days=draw.randint(1, 30))
        run_at = later if status == "pending" and draw.random() < 0.1 else None
        made.tasks.append((
            task_id, self._text(3, 8), self._text(5, 40), status, priority, person, due, tags, handler, queue, run_at,
            "bench", created, created, created if status else None, deleted,
        ))  # fmt: skip
        if queued:
            running = number > self._count - 400
            at = later if draw.random() < 0.15 and not running else created
            state, worker = ("running", self._worker) if running else ("ready", None)
            made.queue.append(
                (
                    task_id,
                    queue,
                    priority,
                    at,
                    state,
                    int(running),
                    5,
                    int(running),
                    worker,
                    handler,
                )
            )
        elif by_worker:
            outcome = draw.choices(("completed", "failed", "cancelled"), (96, 3, 1))[0]
            error = "it did not work" if outcome == "failed" else None
            end = created + timedelta(seconds=10)
            made.runs.append(
                (
                    task_id,
                    1,
                    1,
                    self._worker,
                    created,
                    end,
                    outcome,
                    True,
                    deleted is not None,
                    error,
                )
            )

    def _own_status(self, recent: bool) -> str:
        kinds = ("pending", "in_progress", "completed", "cancelled", "failed")
        return self._draw.choices(kinds, (40, 20, 35, 4, 1) if recent else (4, 1, 85, 8, 2))[0]

    def _text(self, least: int, most: int) -> str:
        return " ".join(map(word, self._words.some(self._draw.randint(least, most))))

    def _id(self, created: datetime) -> UUID:
        """A UUIDv7 of its time."""
        millis = int(created.timestamp() * 1000)
        random_a, random_b = self._draw.getrandbits(12), self._draw.getrandbits(62)
        return UUID(int=(millis << 80) | (0x7 << 76) | (random_a << 64) | (0b10 << 62) | random_b)


async def fill(connection: asyncpg.Connection, count: int, worker: UUID, seed: int = 1) -> None:
    """Insert so many tasks and analyse the tables. `worker` is a registered one, which holds those
    that run.
    """
    for made in Maker(count, worker, seed).chunks():
        async with connection.transaction():
            await connection.copy_records_to_table("tasks", records=made.tasks, columns=TASK)
            await connection.copy_records_to_table("queue", records=made.queue, columns=QUEUED)
            await connection.copy_records_to_table("runs", records=made.runs, columns=RUN)
    for table in ("tasks", "queue", "runs"):
        await connection.execute(f"VACUUM (ANALYZE) {table}")
