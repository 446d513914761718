"""Background loop that checks Redis once a second and delivers the outbox.

It checks which server answers at Redis's address. The cache is read only while these checks succeed
(see `store.cache`).
"""

import asyncio
import contextlib

import asyncpg
import structlog

from task_service.loops.loop import Loop
from task_service.settings import Settings
from task_service.store.cache import outbox
from task_service.store.cache.cache import Cache, NoCache
from task_service.store.cache.redis import RedisAwayError
from task_service.store.database import connect

CHECK_SECONDS = 1.0
TIMEOUT_SECONDS = 3.0
BATCH = 500
log = structlog.get_logger(__name__)


def watch_cache(settings: Settings, cache: NoCache) -> list["CacheWatch"]:
    """Create the watch of the process's cache, if it has one."""
    return [CacheWatch(settings, cache)] if isinstance(cache, Cache) else []


class CacheWatch:
    """Checks with their own database connection: a full pool must not turn the cache off."""

    def __init__(self, settings: Settings, cache: Cache) -> None:
        self._settings, self._cache = settings, cache
        self._connection: asyncpg.Connection | None = None
        self._loop = Loop("cache_watch", self.once, CHECK_SECONDS)

    async def start(self) -> None:
        """Start the loop."""
        await self._loop.start()

    async def stop(self) -> None:
        """Stop the loop. Soon afterwards the cache is no longer read."""
        await self._loop.stop()
        self._disconnect()
        await self._cache.link.close()

    async def once(self) -> float | None:
        """Check once, within a time limit. Return 0 if the outbox may contain more."""
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                return 0.0 if await self.check() else None
        except RedisAwayError:
            self._cache.distrust()  # the outbox collects what changes from now on
            return None
        except Exception:
            self._disconnect()
            raise

    async def check(self) -> bool:
        """Check Redis and deliver a batch of the outbox.

        Return whether the outbox may contain more.

        Raises RedisAwayError and the database's errors.
        """
        started = self._cache.clock()
        await self._cache.link.look()
        await self._cache.repeat()
        if self._connection is None or self._connection.is_closed():
            self._connection = await connect(self._settings, command_timeout=TIMEOUT_SECONDS)
        waiting = await outbox.read(self._connection, BATCH)
        if not waiting:
            self._cache.seen_empty(started)
            return False
        self._cache.distrust()
        latest = {note.key: note for _, note in sorted(waiting, key=lambda row: row[1].stamp)}
        await asyncio.gather(*(self._cache.deliver(note) for note in latest.values()))
        await outbox.remove(self._connection, [number for number, _ in waiting])
        log.info("cache_outbox_delivered", notes=len(waiting))
        return True

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(Exception):
                connection.terminate()
