"""Beside the requests: who answers at Redis's address, and does something wait in the outbox?

Once a second. Only while the answers are good is the cache read (see `store.cache`).
"""

import asyncio
import contextlib

import asyncpg
import structlog

from task_service.settings import Settings
from task_service.store.cache import outbox
from task_service.store.cache.cache import Cache, NoCache
from task_service.store.cache.redis import RedisAwayError
from task_service.store.database import connect, is_unavailable

LOOK_SECONDS = 1.0
BOUND_SECONDS = 3.0
BATCH = 500
log = structlog.get_logger(__name__)


def watch_cache(settings: Settings, cache: NoCache) -> list["CacheWatch"]:
    """The watch over the process's cache, if it has one."""
    return [CacheWatch(settings, cache)] if isinstance(cache, Cache) else []


class CacheWatch:
    """The loop, with a database connection of its own: a full pool must not turn the cache off."""

    def __init__(self, settings: Settings, cache: Cache) -> None:
        self._settings, self._cache = settings, cache
        self._connection: asyncpg.Connection | None = None
        self._loop: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to look."""
        self._loop = asyncio.create_task(self._run(), name="cache_watch")

    async def stop(self) -> None:
        """Look no more: soon after, the cache is passed by."""
        if self._loop is not None:
            self._loop.cancel()
            await asyncio.gather(self._loop, return_exceptions=True)
        await self._hang_up()
        await self._cache.link.close()

    async def _run(self) -> None:
        while True:
            try:
                async with asyncio.timeout(BOUND_SECONDS):
                    more = await self.look()
            except RedisAwayError:
                self._cache.distrust()  # what has happened since, the outbox will tell
                more = False
            except Exception as error:
                log.warning(
                    "cache_watch_failed", error=repr(error), exc_info=not is_unavailable(error)
                )
                await self._hang_up()
                more = False
            if not more:
                await asyncio.sleep(LOOK_SECONDS)

    async def look(self) -> bool:
        """Look once, deliver what waits; whether more may wait. Raises RedisAwayError, the database's errors."""
        begun = self._cache.clock()
        await self._cache.link.look()
        await self._cache.repeat()
        if self._connection is None or self._connection.is_closed():
            self._connection = await connect(self._settings, command_timeout=BOUND_SECONDS)
        waiting = await outbox.read(self._connection, BATCH)
        if not waiting:
            self._cache.seen_empty(begun)
            return False
        self._cache.distrust()
        latest = {note.key: note for _, note in sorted(waiting, key=lambda row: row[1].stamp)}
        await asyncio.gather(*(self._cache.deliver(note) for note in latest.values()))
        await outbox.remove(self._connection, [number for number, _ in waiting])
        log.info("cache_outbox_delivered", notes=len(waiting))
        return True

    async def _hang_up(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(Exception):
                connection.terminate()
