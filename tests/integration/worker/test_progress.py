"""Progress of runs: what readers see, and writes that delay neither handler nor queue."""

import asyncio
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from task_service.domain.progress import Progress
from task_service.queue import entries, results
from task_service.queue.claims import Bounds, claim
from task_service.queue.results import ProgressReport, lock_attempt, record_progress
from task_service.worker.handlers import Context, Retry, handler
from tests.support.handler_package.sample_handlers import ALL_HANDLERS
from tests.support.tasks import add_tasks, add_worker
from tests.support.waiting import eventually
from tests.support.worker_runs import StartWorker, add_handler_task, wait_for_end

pytestmark = pytest.mark.asyncio
STEADY = {"lease_seconds": 30, "heartbeat_seconds": 1}
HALF = Progress(0.5, "half done")


async def shown(connection: asyncpg.Connection, task: UUID) -> tuple[float, str | None] | None:
    """Return the progress that readers of the task see."""
    row = await connection.fetchrow(
        "SELECT progress, progress_note, progress_at FROM task_view WHERE id = $1", task
    )
    assert row is not None
    if row["progress_at"] is None:
        assert row["progress"] is row["progress_note"] is None
        return None
    return row["progress"], row["progress_note"]


async def wait_until_shown(connection: asyncpg.Connection, task: UUID, fraction: float) -> None:
    async def probe() -> bool:
        seen = await shown(connection, task)
        return seen is not None and seen[0] == fraction

    await eventually(f"progress {fraction}", probe)


async def wait_until_running(connection: asyncpg.Connection, task: UUID, fence: int) -> None:
    async def probe() -> bool:
        query = "SELECT state = 'running' AND fence = $2 FROM queue WHERE task_id = $1"
        return bool(await connection.fetchval(query, task, fence))

    await eventually(f"run {fence}", probe)


@pytest.mark.parametrize(
    ("name", "do"),
    [
        ("coroutine", "report_progress_async"),
        ("thread", "report_progress"),
        ("process", "report_progress"),
        ("async_process", "report_progress_async"),
    ],
)
async def test_latest_progress_is_shown_until_the_run_ends(
    connection: asyncpg.Connection, start_worker: StartWorker, name: str, do: str
) -> None:
    await start_worker(*ALL_HANDLERS, **STEADY)
    task = await add_handler_task(connection, name, do, parts=[0.1, 0.7, 0.4])
    await wait_until_shown(connection, task, 0.4)
    assert await shown(connection, task) == (0.4, "part 0.4")
    await entries.request_cancel(connection, task)
    assert (await wait_for_end(connection, task))["outcome"] == "cancelled"
    assert await shown(connection, task) is None


async def test_new_attempt_starts_without_progress(
    connection: asyncpg.Connection, start_worker: StartWorker
) -> None:
    reported, finish = asyncio.Event(), asyncio.Event()

    @handler("twice")
    async def twice(context: Context) -> None:
        if context.attempt == 1:
            context.progress(0.5)
            await reported.wait()
            raise Retry(0)
        await finish.wait()

    await start_worker(twice)
    [task] = await add_tasks(connection, handler="twice")
    await wait_until_shown(connection, task, 0.5)
    reported.set()
    await wait_until_running(connection, task, 2)
    assert await shown(connection, task) is None
    finish.set()
    await wait_for_end(connection, task)


async def test_only_the_last_of_many_reports_is_written(
    connection: asyncpg.Connection, start_worker: StartWorker
) -> None:
    await connection.execute("CREATE TABLE written (progress float8)")
    await connection.execute(
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN INSERT INTO written VALUES (NEW.progress); RETURN NULL; END $$"
    )
    await connection.execute(
        "CREATE TRIGGER note AFTER UPDATE OF progress ON queue FOR EACH ROW EXECUTE FUNCTION note()"
    )
    ends = asyncio.Event()

    @handler("reports")
    async def reports(context: Context) -> None:
        for number in range(1001):
            context.progress(number / 1000)
        await ends.wait()

    await start_worker(reports)
    [task] = await add_tasks(connection, handler="reports")
    await wait_until_shown(connection, task, 1.0)
    ends.set()
    await wait_for_end(connection, task)
    assert [row[0] for row in await connection.fetch("SELECT progress FROM written")] == [1.0]


async def test_failed_write_does_not_affect_the_run_and_is_retried(
    connection: asyncpg.Connection, start_worker: StartWorker, capsys: pytest.CaptureFixture[str]
) -> None:
    ends = {name: asyncio.Event() for name in ("first", "second")}

    @handler("reports")
    async def reports(context: Context) -> str:
        context.progress(0.3)
        await ends[context.payload].wait()
        return "done"

    await connection.execute("ALTER TABLE queue RENAME COLUMN progress_note TO removed")
    await start_worker(reports, **STEADY)
    [first] = await add_tasks(connection, handler="reports", payload="first")
    [second] = await add_tasks(connection, handler="reports", payload="second")
    log = ""

    async def write_failed() -> bool:
        nonlocal log
        log += capsys.readouterr().out
        return "progress_waits" in log

    await eventually("a failed write", write_failed)
    ends["first"].set()
    assert (await wait_for_end(connection, first))["outcome"] == "completed"
    await connection.execute("ALTER TABLE queue RENAME COLUMN removed TO progress_note")
    await wait_until_shown(connection, second, 0.3)
    ends["second"].set()
    assert (await wait_for_end(connection, second))["outcome"] == "completed"


async def test_progress_reported_during_a_write_is_written_after_it(
    connection: asyncpg.Connection, start_worker: StartWorker, database: str
) -> None:
    await connection.execute(
        "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN PERFORM pg_advisory_xact_lock(1); RETURN NEW; END $$"
    )
    await connection.execute(
        "CREATE TRIGGER wait BEFORE UPDATE OF progress ON queue "
        "FOR EACH ROW EXECUTE FUNCTION wait()"
    )
    continue_, ends = asyncio.Event(), asyncio.Event()

    @handler("reports")
    async def reports(context: Context) -> None:
        context.progress(0.1)
        await continue_.wait()
        context.progress(0.2)
        await ends.wait()

    holder = await asyncpg.connect(database)
    async with holder.transaction():
        await holder.execute("SELECT pg_advisory_xact_lock(1)")
        await start_worker(reports, **STEADY)
        [task] = await add_tasks(connection, handler="reports")

        async def is_waiting() -> bool:
            return bool(
                await connection.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted")
            )

        await eventually("a write that waits", is_waiting)
        continue_.set()
    await wait_until_shown(connection, task, 0.2)
    ends.set()
    await wait_for_end(connection, task)
    await holder.close()


async def test_progress_reported_in_a_transaction_is_written_after_it(
    connection: asyncpg.Connection, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried, ends = asyncio.Event(), asyncio.Event()

    async def recorded(*arguments: Any) -> Any:
        written = await record_progress(*arguments)
        tried.set()
        return written

    monkeypatch.setattr(results, "record_progress", recorded)

    @handler("reports")
    async def reports(context: Context) -> None:
        async with context.transaction():
            context.progress(0.6)
            await tried.wait()
        await ends.wait()

    await start_worker(reports, **STEADY)
    [task] = await add_tasks(connection, handler="reports")
    await wait_until_shown(connection, task, 0.6)
    ends.set()
    await wait_for_end(connection, task)


async def test_only_the_current_claim_can_write_progress(
    connection: asyncpg.Connection,
) -> None:
    worker, other = await add_worker(connection), await add_worker(connection)
    [first, second] = await add_tasks(connection, 2)
    [claimed] = await claim(connection, worker, Bounds(["default"]), 1, start_at_once=True)
    task, waiting = claimed.task_id, second if claimed.task_id == first else first
    for sender, report in (
        (other, ProgressReport(task, 1, HALF)),
        (worker, ProgressReport(task, 0, HALF)),
        (worker, ProgressReport(task, 2, HALF)),
        (worker, ProgressReport(waiting, 0, HALF)),
    ):
        assert await record_progress(connection, sender, [report]) == set()
    assert await shown(connection, task) is None
    assert await record_progress(
        connection, worker, [ProgressReport(waiting, 0, HALF), ProgressReport(task, 1, HALF)]
    ) == {(task, 1)}
    assert await shown(connection, task) == HALF


async def test_locked_row_is_skipped_until_the_next_write(
    connection: asyncpg.Connection, database: str
) -> None:
    worker = await add_worker(connection)
    await add_tasks(connection, 2)
    claims = await claim(connection, worker, Bounds(["default"]), 2, start_at_once=True)
    [locked, free] = [(c.task_id, c.fence) for c in claims]
    holder = await asyncpg.connect(database)
    reports = [ProgressReport(*locked, HALF), ProgressReport(*free, HALF)]
    async with holder.transaction():
        assert await lock_attempt(holder, worker, locked)
        assert await record_progress(connection, worker, reports) == {free}
    assert await record_progress(connection, worker, reports) == {locked, free}
    await holder.close()


async def test_progress_write_changes_no_index(connection: asyncpg.Connection) -> None:
    worker = await add_worker(connection)
    [task] = await add_tasks(connection)
    await claim(connection, worker, Bounds(["default"]), 1, start_at_once=True)
    updates = (
        "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_xact_user_tables WHERE relname = 'queue'"
    )
    async with connection.transaction():
        before = await connection.fetchrow(updates) or ()
        await record_progress(connection, worker, [ProgressReport(task, 1, HALF)])
        after = await connection.fetchrow(updates) or ()
    assert [new - old for new, old in zip(after, before, strict=True)] == [1, 1]
