"""Import of a service's tables in chunks, each in its own transaction.

It is safe to run again, including after an aborted run: ids derive from the service's own ids.
A task, its conversations and its queue entry are written in one transaction, so that no worker sees
a part.
"""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import asyncpg
import structlog

from task_service.clocks import utc_now
from task_service.queue.entries import Entry, enqueue
from task_service.queue.wakeups import Wakeups
from task_service.services.importing import convert
from task_service.services.importing.chunks import Children, Row, chunks, slices
from task_service.services.importing.convert import Conversion
from task_service.services.importing.load import Loader, Table
from task_service.services.importing.report import Summary
from task_service.services.importing.schemas import SOURCES, Found, Letter, find
from task_service.settings import Settings
from task_service.store.database import connect
from task_service.store.importing import source
from task_service.store.importing import target as store

ACTOR = "import"
"""The author in histories."""
USERS = Table("users", "id", convert.convert_user, store.USERS, (ACTOR,))
SETTINGS = Table("settings", "key", convert.convert_setting, store.SETTINGS, (ACTOR,))
CONVERSATIONS = Table("conversations", "id", convert.convert_conversation, store.CONVERSATIONS)
HISTORY = Table("audit_log", "timestamp", convert.convert_history, store.HISTORY)
DAILY_LOG = Table("daily_log", "id", convert.convert_log_entry, store.DAILY_LOG)
log = structlog.get_logger(__name__)


async def run_import(
    settings: Settings, letter: Letter, url: str, *, dry_run: bool = False
) -> Summary:
    """Import from the database at `url`. With `dry_run` everything is rolled back at the end.

    Raises SchemaError, ValueError for an invalid URL, and asyncpg's errors or OSError if a database
    is unreachable.
    """
    summary = Summary()
    how = Conversion(
        SOURCES[letter], settings.default_handler or None, utc_now(), summary.notes.add
    )
    async with AsyncExitStack() as stack:
        connection = await stack.enter_async_context(source.open_source(url))
        found = find(how.source, await source.read_columns(connection))
        target = await connect(settings)
        stack.push_async_callback(target.close)
        if dry_run:
            await stack.enter_async_context(_rolled_back(target))
        elif how.source.keeps_numbers:
            await _raise_numbers(connection, target, found)
        await _Import(settings, connection, target, found, how, summary).run()
    return summary


@asynccontextmanager
async def _rolled_back(target: asyncpg.Connection) -> AsyncIterator[None]:
    """Open a transaction that may last long and is always rolled back."""
    transaction = target.transaction()
    await transaction.start()
    await target.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
    try:
        yield
    finally:
        await transaction.rollback()


async def _raise_numbers(
    connection: asyncpg.Connection, target: asyncpg.Connection, found: Found
) -> None:
    """Make tasks that are created during the import get higher numbers than the imported ones."""
    for table in ("tasks", "conversations", "daily_log"):
        reading = found.readings.get(table)
        highest = (
            await source.highest_number(connection, reading, convert.NUMBER_MAX)
            if reading
            else None
        )
        if highest and highest > 0:
            await store.raise_numbers(target, table, highest)


async def _skip_notification(_: list[str]) -> None:
    """Do not notify workers: they poll within a second."""


class _Import:
    """One import."""

    def __init__(
        self,
        settings: Settings,
        source: asyncpg.Connection,
        target: asyncpg.Connection,
        found: Found,
        how: Conversion,
        summary: Summary,
    ) -> None:
        self._attempts = settings.default_max_attempts
        self._source = source
        self._target = target
        self._readings = found.readings
        self._notes = found.notes
        self._summary = summary
        self._loader = Loader(target, how, summary)
        self._wakeups = Wakeups(_skip_notification)

    async def run(self) -> None:
        """Import all tables, referenced ones first."""
        for note in self._notes:
            self._summary.notes.add(note)
        await self._import_table(USERS)
        await self._import_table(SETTINGS)
        await self._import_tasks()
        await self._import_table(HISTORY)
        await self._import_table(DAILY_LOG)

    async def _import_table(self, table: Table) -> None:
        reading = self._readings.get(table.name)
        if reading is None:
            return
        self._summary.of(table.name)
        async for chunk in chunks(source.read_rows(self._source, reading, table.order)):
            pairs = self._loader.convert(table, chunk)
            async with self._target.transaction():
                await store.one_at_a_time(self._target)
                await self._loader.insert(table, pairs)
            self._log_progress(table)

    async def _import_tasks(self) -> None:
        table = Table("tasks", "id", convert.convert_task, store.TASKS, (self._attempts, ACTOR))
        tasks, conversations = self._readings["tasks"], self._readings.get("conversations")
        children = (
            Children(source.read_children(self._source, conversations, tasks))
            if conversations
            else None
        )
        async for chunk in chunks(source.read_rows(self._source, tasks, "id")):
            pairs = self._loader.convert(table, chunk)
            theirs = await children.of({str(row["id"]) for row in chunk}) if children else []
            bodies = self._loader.convert(CONVERSATIONS, theirs) if theirs else []
            async with self._target.transaction():
                await store.one_at_a_time(self._target)
                made = await self._loader.insert(table, pairs)
                for some in slices(bodies):
                    await self._loader.insert(CONVERSATIONS, some)
                await self._enqueue(
                    [new for _, new in pairs if new["queued"] and str(new["id"]) in made]
                )
            self._log_progress(table)
        if conversations:
            await self._count_orphans()

    async def _count_orphans(self) -> None:
        """Report the number of conversations without a task, which are not read."""
        figures = self._summary.of(CONVERSATIONS.name)
        everything = await source.count_rows(self._source, self._readings[CONVERSATIONS.name])
        if orphans := everything - figures.read:
            figures.read = everything
            figures.left_out += orphans
            self._summary.left_out.add(f"conversations: {orphans:,} have no task")

    async def _enqueue(self, rows: list[Row]) -> None:
        waiting = [
            Entry(r["id"], "default", r["priority"], None, self._attempts, None, r["handler"])
            for r in rows
        ]
        await enqueue(self._target, waiting, self._wakeups)

    def _log_progress(self, table: Table) -> None:
        log.info("import_progress", table=table.name, read=self._summary.of(table.name).read)
