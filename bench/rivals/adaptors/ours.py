"""This product: tasks by its library and through its service layer, and its own worker with default
settings.
"""

import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import uvloop

from bench.rivals.adaptors import Start
from task_service.domain.principals import SYSTEM
from task_service.embedded import free_port
from task_service.enqueue import enqueue_async, enqueue_many_async
from task_service.migrations.upgrade import migrate
from task_service.queue.statements import statement
from task_service.queue.wakeups import Wakeups
from task_service.schemas.tasks import NewTask
from task_service.server import serve
from task_service.services.bulk import create_tasks
from task_service.services.tasks import create_task
from task_service.services.transactions import TransactionManager
from task_service.settings import Settings
from task_service.store.database import create_engine, raw
from task_service.telemetry.logs import configure_logs
from task_service.worker.entry_points import ENTRY_POINTS
from task_service.worker.handlers import Context as Run
from task_service.worker.handlers import handler

CHUNK = 10_000
"""Tasks in a transaction: the most that one request may bring."""
run = uvloop.run
starts: list[Start] = []


def settings_of(url: str, **given: object) -> Settings:
    """Defaults but for the database and the log."""
    return Settings(_env_file=None, database_url=url, log_level="WARNING", **given)  # type: ignore[arg-type,call-arg]


async def prepare(url: str) -> None:
    """Migrate."""
    await migrate(create_engine(settings_of(url), pooled=False))


class Service:
    """What an application does with a task, and the API with a request, without HTTP."""

    def __init__(
        self, transactions: TransactionManager, connection: asyncpg.Connection, queue: str
    ) -> None:
        self._transactions, self._connection, self._queue = transactions, connection, queue

    def _task(self, number: int) -> NewTask:
        return NewTask(title="a task", handler="bench", queue=self._queue, payload=number)

    async def one(self, number: int) -> None:
        """As an application does on its own connection."""
        await enqueue_async(self._connection, "bench", number, title="a task", queue=self._queue)

    async def through_service(self, number: int) -> None:
        """A transaction of its own, as for a POST."""
        await self._transactions.write(lambda t: create_task(t, self._task(number), SYSTEM))

    async def many(self, numbers: Sequence[int]) -> None:
        """As an application does, in transactions of `CHUNK`."""
        for at in range(0, len(numbers), CHUNK):
            some = numbers[at : at + CHUNK]
            async with self._connection.transaction():
                await enqueue_many_async(
                    self._connection, "bench", some, title="a task", queue=self._queue
                )

    async def many_through_service(self, numbers: Sequence[int]) -> None:
        """Transactions of `CHUNK`, as for a batch."""
        for at in range(0, len(numbers), CHUNK):
            tasks = [self._task(number) for number in numbers[at : at + CHUNK]]
            await self._transactions.write(lambda t, new=tasks: create_tasks(t, new, SYSTEM))  # type: ignore[misc]


@asynccontextmanager
async def producer(url: str, queue: str) -> AsyncIterator[Service]:
    """A connection, and the service layer with its pool and its wake-ups, as an API process has it."""
    configure_logs(settings := settings_of(url))
    engine = create_engine(settings)

    async def notify(queues: list[str]) -> None:
        async with engine.begin() as connection:
            await (await raw(connection)).execute(statement("notify_queues"), queues)

    wakeups, connection = Wakeups(notify), await asyncpg.connect(url)
    yield Service(TransactionManager(settings, engine, wakeups), connection, queue)
    await wakeups.close()
    await connection.close()
    await engine.dispose()


@handler("bench")
async def bench(context: Run) -> None:
    """What the worker runs, found as the handlers of any package are."""
    starts[0](context.payload)


async def work(url: str, queue: str, start: Start) -> None:
    """A worker process, `task-service worker`, until SIGTERM."""
    starts[:] = [start]
    with tempfile.TemporaryDirectory(prefix="task-service-bench-") as name:
        offer(folder := Path(name))
        given = {
            "management_host": "127.0.0.1",
            "management_port": free_port(),
            "runtime_dir": folder,
        }
        configure_logs(settings := settings_of(url, worker_queues=[queue], **given))
        await serve(settings, api=False, worker=True)


def offer(folder: Path) -> None:
    """Say that the handler is there, as an installed package would."""
    about = folder / "bench-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: bench\nVersion: 1\n")
    (about / "entry_points.txt").write_text(f"[{ENTRY_POINTS}]\nbench = {__name__}:bench\n")
    sys.path.append(str(folder))
