"""The cache of tasks in Redis, which never shows a reader less than what was acknowledged before
the read began.

A value is kept under `tasks::{id}`, and beside it `tasks::{id}::stamp` holds a mark. A reader that
finds no value gets the mark (a fresh one, if there was none), reads the database, and may fill only
while that mark is unchanged. A writer replaces the mark by a tombstone with the stamp of its
change, once before its commit and once after it, before it answers: a fill that began earlier finds
another mark, and between the two a tombstone refuses what is older. So neither a slow reader, nor
an evicted key, nor a writer that dies can bring an old version back. What another server kept (an
old dump, a failover) is not believed: values and tombstones name theirs.

A writer that cannot reach Redis leaves a note in the outbox, in its own transaction.
`services.cache_watch` looks there every second, and the cache is read only while it has just seen
the outbox empty.
"""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Any
from uuid import UUID
from weakref import WeakKeyDictionary

import orjson
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from task_service.clocks import machine_seconds
from task_service.domain.statuses import Status
from task_service.settings import Settings
from task_service.store.cache import outbox
from task_service.store.cache.outbox import Note
from task_service.store.cache.redis import RedisAwayError, RedisLink
from task_service.store.tasks import TaskRow
from task_service.telemetry.metrics import CACHE_ERRORS, CACHE_READS

FILL_MS = 10_000
"""A reader has so long to fill; then its mark is gone."""
TOMBSTONE_MS = 60_000
TRUST_SECONDS = 4.0
"""The outbox was seen empty so recently, or the cache is passed by: with Redis's timeout less than
5 s.
"""
DAILY_LOG = "daily_log"
FIELDS = TaskRow._fields
SHAPE = sha256(repr(FIELDS).encode()).hexdigest()[:8]
"""Other versions of the service keep other fields; what they kept is not believed."""
TIMES = frozenset(
    {
        "due_date",
        "run_at",
        "created_at",
        "updated_at",
        "processed_at",
        "cancel_requested_at",
        "progress_at",
    }
)
IDS = frozenset({"id", "processing_instance_id"})


@dataclass(frozen=True, slots=True)
class Missing:
    """Nothing is kept; who reads the database now may fill, on this server and while the mark is
    unchanged.
    """

    tag: str
    mark: str


class NoCache:
    """What a service without Redis has."""

    async def read(self, task_id: UUID) -> TaskRow | Missing | None:  # noqa: ARG002
        """Nothing, and nothing to fill."""
        return None

    async def fill(self, missing: Missing, task_id: UUID, task: TaskRow) -> None:
        """Nothing."""

    async def read_day(self, name: str) -> bytes | Missing | None:  # noqa: ARG002
        """Nothing, and nothing to fill."""
        return None

    async def fill_day(self, missing: Missing, name: str, body: bytes) -> None:
        """Nothing."""

    async def forget(self, connection: AsyncConnection, task_id: UUID, stamp: int) -> None:
        """Nothing."""

    async def forget_daily_log(self, connection: AsyncConnection) -> None:
        """Nothing."""

    async def committed(self, connection: AsyncConnection) -> None:
        """Nothing."""


class Cache(NoCache):
    """The cache in Redis. No method fails because of Redis."""

    def __init__(
        self,
        link: RedisLink,
        engine: AsyncEngine,
        ttl_seconds: int,
        clock: Callable[[], float] = machine_seconds,
    ) -> None:
        self.link, self.clock = link, clock
        self._engine, self._ttl_ms = engine, ttl_seconds * 1000
        self._seen_empty = self._distrusted = float("-inf")
        self._notes: WeakKeyDictionary[AsyncConnection, list[Note]] = WeakKeyDictionary()
        """What each open transaction has told Redis of, to be told again after its commit."""
        self._told: list[tuple[str, Note]] = []
        """What was said after commits since the last look, and to which server."""

    # -- whether it may be read
    # ---------------------------------------------------------------------------------
    def seen_empty(self, at: float) -> None:
        """The outbox was looked at from this moment of the clock on, and was empty."""
        if at > self._distrusted:
            self._seen_empty = at

    def distrust(self) -> None:
        """Pass the cache by until the outbox has been seen empty again."""
        self._distrusted, self._seen_empty = self.clock(), float("-inf")

    @property
    def is_trusted(self) -> bool:
        """Whether nothing waits in the outbox, as far as was seen a moment ago."""
        return self.clock() - self._seen_empty <= TRUST_SECONDS

    # -- tasks
    # --------------------------------------------------------------------------------------------------
    async def read(self, task_id: UUID) -> TaskRow | Missing | None:
        """The task; Missing: read it and fill; None: pass the cache by."""
        found = await self._read(
            "cache_read", _keys(_task_key(task_id)), lambda tag: [_head(tag), _mark(), FILL_MS]
        )
        return _decode(found) if isinstance(found, bytes) else found

    async def fill(self, missing: Missing, task_id: UUID, task: TaskRow) -> None:
        """Keep what a reader has read, if it may be kept: what a worker or time alone changes may
        not.
        """
        if task.handler is not None or task.status is Status.SCHEDULED:
            return
        value = _encode(missing.tag, task)
        await self._fill(
            "cache_fill",
            _keys(_task_key(task_id)),
            missing,
            [missing.mark, task.stamp, value, self._ttl_ms, _server(missing.tag)],
        )

    async def forget(self, connection: AsyncConnection, task_id: UUID, stamp: int) -> None:
        """Forget a task that this transaction has changed to this stamp (or removes, which is a
        higher stamp, too).

        To be called after the change and before the commit, in a transaction of `Context.write`.
        """
        await self._forget(connection, Note(_task_key(task_id), stamp))

    # -- the daily log
    # ------------------------------------------------------------------------------------------
    async def read_day(self, name: str) -> bytes | Missing | None:
        """What was kept of the daily log under this name, as `read`."""
        keys = [f"{DAILY_LOG}::{name}", f"{DAILY_LOG}::stamp"]
        return await self._read("namespace_read", keys, lambda tag: [tag, _mark(), FILL_MS])

    async def fill_day(self, missing: Missing, name: str, body: bytes) -> None:
        """Keep a body made of the daily log."""
        keys = [f"{DAILY_LOG}::{name}", f"{DAILY_LOG}::stamp"]
        await self._fill(
            "namespace_fill", keys, missing, [missing.mark, missing.tag, body, self._ttl_ms]
        )

    async def forget_daily_log(self, connection: AsyncConnection) -> None:
        """Forget all that was kept of the daily log, which this transaction has changed; as
        `forget`.
        """
        await self._forget(connection, Note(DAILY_LOG))

    # -- writers
    # ------------------------------------------------------------------------------------------------
    async def committed(self, connection: AsyncConnection) -> None:
        """Forget again what the transaction of this connection changed, now that everybody can see
        it.

        Raises the database's errors when Redis is away by now and the database, too.
        """
        missed = []
        for note in self._notes.pop(connection, []):
            try:
                await self.deliver(note)
            except RedisAwayError:
                missed.append(note)
        if missed:
            self.distrust()
            async with self._engine.begin() as own:
                await outbox.add(own, missed)

    async def deliver(self, note: Note) -> None:
        """Tell Redis of a change that everybody can see. Raises RedisAwayError."""
        self._told.append((await self._tell(note), note))

    async def repeat(self) -> None:
        """Tell the present server, too, what was told to the one before, which was about to be
        replaced.

        To be called once a second or so: it remembers what was told since the last time. Raises
        RedisAwayError.
        """
        told = self._told.copy()
        for note in {note for tag, note in told if tag != self.link.tag}:
            await self.deliver(note)
        del self._told[: len(told)]

    async def _forget(self, connection: AsyncConnection, note: Note) -> None:
        try:
            await self._tell(note, before_commit=True)
        except RedisAwayError:
            CACHE_ERRORS.labels("forget").inc()
            self.distrust()
            await outbox.add(connection, [note])
        else:
            self._notes.setdefault(connection, []).append(note)

    async def _tell(self, note: Note, *, before_commit: bool = False) -> str:
        """Leave a note's mark; the tag of the server that has it."""
        if note.key == DAILY_LOG:
            mark, life = (
                (f"closed:{secrets.token_hex(8)}", TOMBSTONE_MS)
                if before_commit
                else (_mark(), FILL_MS)
            )
            tag, _ = await self.link.run(
                "namespace_forget", [f"{DAILY_LOG}::stamp"], lambda _: [mark, life]
            )
        else:
            keys = _keys(note.key)
            tag, _ = await self.link.run(
                "cache_forget", keys, lambda tag: [note.stamp, TOMBSTONE_MS, _server(tag)]
            )
        return tag

    # -- readers
    # ------------------------------------------------------------------------------------------------
    async def _read(
        self, script: str, keys: Sequence[str], args: Callable[[str], Sequence[Any]]
    ) -> bytes | Missing | None:
        if not self.is_trusted:
            CACHE_READS.labels("bypass").inc()
            return None
        try:
            tag, found = await self.link.run(script, keys, args)
        except RedisAwayError:
            # writers may not reach it either: what it holds may be old when it answers again
            self.distrust()
            CACHE_ERRORS.labels("read").inc()
            CACHE_READS.labels("bypass").inc()
            return None
        CACHE_READS.labels("miss" if found[0] is None else "hit").inc()
        return Missing(tag, found[1].decode()) if found[0] is None else bytes(found[0])

    async def _fill(
        self, script: str, keys: Sequence[str], missing: Missing, args: Sequence[Any]
    ) -> None:
        try:
            await self.link.run(script, keys, lambda _: args, on=missing.tag)
        except RedisAwayError:
            CACHE_ERRORS.labels("fill").inc()


def open_cache(settings: Settings, engine: AsyncEngine) -> NoCache:
    """The process's cache; it connects to nothing yet. Without Redis in the settings there is none."""
    if not (settings.redis_url or settings.redis_url_file or settings.redis_host):
        return NoCache()
    return Cache(
        RedisLink(lambda: settings.read_redis_url() or "", settings.redis_timeout_seconds),
        engine,
        settings.cache_ttl_seconds,
    )


def _task_key(task_id: UUID) -> str:
    return f"tasks::{task_id}"


def _keys(key: str) -> list[str]:
    return [key, f"{key}::stamp"]


def _mark() -> str:
    return f"open:{secrets.token_hex(8)}"


def _server(tag: str) -> str:
    return f"{tag}.{SHAPE}"


def _head(tag: str) -> str:
    """How a value begins; the scripts look at it."""
    return f'{{"server":"{_server(tag)}",'


def _encode(tag: str, task: TaskRow) -> bytes:
    fields = {name: getattr(task, name) for name in FIELDS}
    return orjson.dumps({"server": _server(tag), "stamp": task.stamp, "task": fields}, default=str)


def _decode(value: bytes) -> TaskRow:
    fields = orjson.loads(value)["task"]
    for name in TIMES:
        fields[name] = datetime.fromisoformat(fields[name]) if fields[name] else None
    for name in IDS:
        fields[name] = UUID(fields[name]) if fields[name] else None
    fields["status"] = Status(fields["status"])
    return TaskRow(**fields)
