"""Schedules that are due, and the daily loader: every process looks for them, and each time is run once.

API processes do it too, since workers may be scaled to none.
"""

import asyncio

import structlog

from task_service.services import daily_log, schedules
from task_service.services.transactions import TransactionManager
from task_service.store import schedules as store
from task_service.store.database import Acquire, acquire_from, is_unavailable

log = structlog.get_logger(__name__)


class Scheduler:
    """The loop. It asks the database what is due and what time it is: pods' clocks do not count."""

    def __init__(self, transactions: TransactionManager, acquire: Acquire | None = None) -> None:
        """`acquire` lends the connection to look with, by default one of the engine's."""
        self._transactions = transactions
        self._acquire = acquire or acquire_from(transactions.engine)

    async def run(self) -> None:
        """Look until cancelled."""
        prepared = False
        while True:
            try:
                if not prepared:
                    await self._prepare()
                    prepared = True
                await self.look()
            except Exception as error:
                log.warning(
                    "scheduler_failed", error=repr(error), exc_info=not is_unavailable(error)
                )
            await asyncio.sleep(self._transactions.settings.schedule_poll_seconds)

    async def _prepare(self) -> None:
        """Have the product's own schedule. Most processes find it as it should be, and lock nothing."""
        settings = self._transactions.settings
        async with self._acquire() as connection:
            own = await store.own_time(connection, schedules.DAILY_LOG_ACTION)
        if own != (settings.daily_log_cron, settings.daily_log_time_zone):
            await self._transactions.write(schedules.ensure_daily_log_schedule)

    async def look(self) -> None:
        """Run everything that is due at this moment."""
        async with self._acquire() as connection:
            due = await store.due_actions(connection)
        if "task" in due:
            while await self._transactions.write(schedules.fire_next):
                pass
        if schedules.DAILY_LOG_ACTION in due:
            await self._load()

    async def _load(self) -> None:
        """Run the daily loader, then write that it has run: if this process dies in between, another one does both."""
        async with self._transactions.read() as connection:
            row = await store.read_due(connection, schedules.DAILY_LOG_ACTION)
        if row is not None:
            await daily_log.catch_up(self._transactions)
            await self._transactions.write(
                lambda t: schedules.record_daily_log_run(t, row, was_due=True)
            )
