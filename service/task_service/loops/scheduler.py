"""Background loop that runs due schedules and the daily loader.

Every process runs it, API processes included, because the workers may be scaled to zero. Each due
time is run once.
"""

from task_service.loops.loop import Loop
from task_service.services import daily_log, schedules
from task_service.services.transactions import TransactionManager
from task_service.store import schedules as store
from task_service.store.database import Acquire, acquire_from


class Scheduler:
    """Search for due schedules. The clock of the database decides, not that of the pod."""

    def __init__(self, transactions: TransactionManager, acquire: Acquire | None = None) -> None:
        """Create the scheduler.

        `acquire` lends the connection that searches, by default the engine's.
        """
        self._transactions = transactions
        self._acquire = acquire or acquire_from(transactions.engine)
        self._is_prepared = False

    def loop(self) -> Loop:
        """Create the background loop."""
        return Loop("scheduler", self.once, self._transactions.settings.schedule_poll_seconds)

    async def once(self) -> None:
        """Run what is due. The first call also creates the schedule of the daily loader."""
        if not self._is_prepared:
            await self._prepare()
            self._is_prepared = True
        await self.run_due()

    async def _prepare(self) -> None:
        """Create or update the schedule of the daily loader.

        Without a difference, nothing is locked.
        """
        settings = self._transactions.settings
        async with self._acquire() as connection:
            own = await store.own_time(connection, schedules.DAILY_LOG_ACTION)
        if own != (settings.daily_log_cron, settings.daily_log_time_zone):
            await self._transactions.write(schedules.ensure_daily_log_schedule)

    async def run_due(self) -> None:
        """Run everything that is due now."""
        async with self._acquire() as connection:
            due = await store.due_actions(connection)
        if "task" in due:
            while await self._transactions.write(schedules.fire_next):
                pass
        if schedules.DAILY_LOG_ACTION in due:
            await self._load()

    async def _load(self) -> None:
        """Run the daily loader, then record the run.

        If this process dies in between, another one repeats both.
        """
        async with self._transactions.read() as connection:
            row = await store.read_due(connection, schedules.DAILY_LOG_ACTION)
        if row is not None:
            await daily_log.catch_up(self._transactions)
            await self._transactions.write(
                lambda t: schedules.record_daily_log_run(t, row, was_due=True)
            )
