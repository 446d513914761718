"""The ceiling: this product's statements on its tables, by plain psycopg2, with none of its Python.

Claims and completions overlap on two connections: while a batch is completed, the next one is
claimed. Waiting for work it listens, as the worker does. Inserts are those of the service layer:
the task, the first line of its history and its place in the queue, in one transaction.
"""

import asyncio
import json
import re
import select
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from io import StringIO
from queue import Queue
from typing import Any, TypeAlias

import asyncpg
import psycopg2

from bench.rivals.adaptors import Start
from bench.rivals.adaptors.ours import prepare as prepare  # noqa: PLC0414 - the same tables
from task_service.domain.ids import new_id
from task_service.queue.claims import EARLIEST
from task_service.queue.statements import statement
from task_service.store.database import LOOK_UPS
from task_service.worker.claimer import BATCH
from tests.support.tasks import add_worker

Batches: TypeAlias = Queue[list[tuple[str, int]]]
CHUNK = 10_000
POLL_SECONDS = 1.0
CHANNEL = "task_service_queue"
PREPARED = {
    "claim": "uuid, text[], smallint[], float8[], integer, boolean, integer",
    "finish": "uuid, uuid[], bigint[], text[], text[], text[], text[]",
}
INSERT = """
    WITH task AS (
        INSERT INTO tasks (id, title, handler, queue, payload, created_by)
        VALUES (%(id)s, 'a task', 'bench', %(queue)s, %(payload)s, 'bench')
    ), line AS (
        INSERT INTO task_history (task_id, new_status, changed_by) VALUES (%(id)s, 'pending', 'bench')
    ), entry AS (
        INSERT INTO queue (task_id, queue, priority, run_at, max_attempts, handler)
        VALUES (%(id)s, %(queue)s, 2, clock_timestamp(), 5, 'bench')
    )
    SELECT pg_notify(%(channel)s, %(queue)s)
"""
ENTRIES = """
    INSERT INTO queue (task_id, queue, priority, run_at, max_attempts, handler)
    SELECT id, %s, 2, clock_timestamp(), 5, 'bench' FROM unnest(%s::uuid[]) AS id
"""


class Hand:
    """Inserts on one connection."""

    def __init__(self, connection: Any, queue: str) -> None:
        self._connection, self._queue = connection, queue

    async def one(self, number: int) -> None:
        """One statement, one commit."""
        values = {
            "id": str(new_id()),
            "queue": self._queue,
            "payload": json.dumps(number),
            "channel": CHANNEL,
        }
        with self._connection, self._connection.cursor() as cursor:
            cursor.execute(INSERT, values)

    async def many(self, numbers: Sequence[int]) -> None:
        """COPY into each table."""
        for at in range(0, len(numbers), CHUNK):
            some = [(str(new_id()), number) for number in numbers[at : at + CHUNK]]
            with self._connection, self._connection.cursor() as cursor:
                copy(cursor, "tasks (id, title, handler, queue, payload, created_by)",
                     (f"{i}\ta task\tbench\t{self._queue}\t{n}\tbench\n" for i, n in some))  # fmt: skip
                copy(cursor, "task_history (task_id, new_status, changed_by)",
                     (f"{i}\tpending\tbench\n" for i, _ in some))  # fmt: skip
                cursor.execute(ENTRIES, (self._queue, [i for i, _ in some]))
                cursor.execute("SELECT pg_notify(%s, %s)", (CHANNEL, self._queue))


def copy(cursor: Any, into: str, lines: Any) -> None:
    """COPY lines of text."""
    cursor.copy_expert(f"COPY {into} FROM STDIN", StringIO("".join(lines)))


@asynccontextmanager
async def producer(url: str, queue: str) -> AsyncIterator[Hand]:
    """One connection."""
    connection = psycopg2.connect(url)
    yield Hand(connection, queue)
    connection.close()


async def work(url: str, queue: str, start: Start) -> None:
    """Claim in one thread and complete in another until the process ends."""
    connection = await asyncpg.connect(url)
    worker = str(await add_worker(connection))
    await connection.close()
    done: Batches = Queue(maxsize=1)
    for target, arguments in (
        (claim, (url, worker, queue, start, done)),
        (finish, (url, worker, done)),
    ):
        threading.Thread(target=target, args=arguments, daemon=True).start()
    await asyncio.Event().wait()


def claim(url: str, worker: str, queue: str, start: Start, done: Batches) -> None:
    """Claim, and start what was claimed, one batch after the other; wait when there is nothing."""
    statements = Statements(url)
    statements.cursor.execute(f"LISTEN {CHANNEL}")
    while True:
        rows = statements.execute("claim", worker, [queue], [2], [EARLIEST], BATCH, False, None)
        for row in rows:
            start(row[-1])
        if rows:
            done.put(sorted((row[0], row[1]) for row in rows))
        else:
            statements.wait()


def finish(url: str, worker: str, done: Batches) -> None:
    """Complete one batch after the other."""
    statements = Statements(url)
    while True:
        rows = done.get()
        ids, fences = [row[0] for row in rows], [row[1] for row in rows]
        statements.execute("finish", worker, ids, fences, ["completed"] * len(rows), [], [], [])


class Statements:
    """The queue's own statements, prepared on a connection of its own that commits each."""

    def __init__(self, url: str) -> None:
        self._connection = psycopg2.connect(url)
        self._connection.autocommit = True
        self.cursor = self._connection.cursor()
        for setting, value in {**LOOK_UPS, "jit": "off"}.items():
            self.cursor.execute(f"SET {setting} = {value}")
        for name, types in PREPARED.items():
            self.cursor.execute(f"PREPARE {name} ({types}) AS {without_comments(statement(name))}")

    def execute(self, name: str, *values: Any) -> list[tuple[Any, ...]]:
        """Run one and return its rows."""
        types = [kind.strip() for kind in PREPARED[name].split(",")]
        places = ", ".join(f"%s::{kind}" for kind in types)
        self.cursor.execute(f"EXECUTE {name} ({places})", values)
        return list(self.cursor.fetchall())

    def wait(self) -> None:
        """Until a notification comes, or a second is over."""
        if not self._connection.notifies:
            select.select([self._connection], [], [], POLL_SECONDS)
            self._connection.poll()
        self._connection.notifies.clear()


def without_comments(sql: str) -> str:
    """A statement as psycopg2 can take it: it would read a % in a comment."""
    return re.sub(r"--.*", "", sql)
