"""How far a run is: what its handler says is shown while it runs, and costs neither the handler nor the queue."""

import asyncio
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from task_service.domain.progress import Progress
from task_service.queue import entries, results
from task_service.queue.claims import Bounds, claim
from task_service.queue.results import Told, hold, note_progress
from task_service.worker.handlers import Context, Retry, handler
from tests.integration.worker.conftest import StartWorker, add, end_of
from tests.support.authors.authors_handlers import EVERY
from tests.support.tasks import add_tasks, add_worker
from tests.support.waiting import eventually

pytestmark = pytest.mark.asyncio
STEADY = {"lease_seconds": 30, "heartbeat_seconds": 1}
HALF = Progress(0.5, "half of it")


async def shown(connection: asyncpg.Connection, task: UUID) -> tuple[float, str | None] | None:
    """What the task's readers see."""
    row = await connection.fetchrow(
        "SELECT progress, progress_note, progress_at FROM task_view WHERE id = $1", task
    )
    assert row is not None
    if row["progress_at"] is None:
        assert row["progress"] is row["progress_note"] is None
        return None
    return row["progress"], row["progress_note"]


async def until_shown(connection: asyncpg.Connection, task: UUID, fraction: float) -> None:
    async def probe() -> bool:
        seen = await shown(connection, task)
        return seen is not None and seen[0] == fraction

    await eventually(f"progress {fraction}", probe)


async def until_runs(connection: asyncpg.Connection, task: UUID, fence: int) -> None:
    async def probe() -> bool:
        query = "SELECT state = 'running' AND fence = $2 FROM queue WHERE task_id = $1"
        return bool(await connection.fetchval(query, task, fence))

    await eventually(f"run {fence}", probe)


@pytest.mark.parametrize(
    ("name", "do"),
    [
        ("coroutine", "tell_async"),
        ("thread", "tell"),
        ("process", "tell"),
        ("async_process", "tell_async"),
    ],
)
async def test_the_last_word_of_a_handler_is_shown_until_it_ends(
    connection: asyncpg.Connection, start_worker: StartWorker, name: str, do: str
) -> None:
    await start_worker(*EVERY, **STEADY)
    task = await add(connection, name, do, parts=[0.1, 0.7, 0.4])
    await until_shown(connection, task, 0.4)
    assert await shown(connection, task) == (0.4, "0.4 of it")
    await entries.request_cancel(connection, task)
    assert (await end_of(connection, task))["outcome"] == "cancelled"
    assert await shown(connection, task) is None


async def test_an_attempt_begins_with_none(
    connection: asyncpg.Connection, start_worker: StartWorker
) -> None:
    told, goes_on = asyncio.Event(), asyncio.Event()

    @handler("twice")
    async def twice(context: Context) -> None:
        if context.attempt == 1:
            context.progress(0.5)
            await told.wait()
            raise Retry(0)
        await goes_on.wait()

    await start_worker(twice)
    [task] = await add_tasks(connection, handler="twice")
    await until_shown(connection, task, 0.5)
    told.set()
    await until_runs(connection, task, 2)
    assert await shown(connection, task) is None
    goes_on.set()
    await end_of(connection, task)


async def test_of_a_thousand_words_at_once_the_last_is_written(
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

    @handler("talks")
    async def talks(context: Context) -> None:
        for number in range(1001):
            context.progress(number / 1000)
        await ends.wait()

    await start_worker(talks)
    [task] = await add_tasks(connection, handler="talks")
    await until_shown(connection, task, 1.0)
    ends.set()
    await end_of(connection, task)
    assert [row[0] for row in await connection.fetch("SELECT progress FROM written")] == [1.0]


async def test_what_cannot_be_written_harms_no_run_and_is_written_later(
    connection: asyncpg.Connection, start_worker: StartWorker, capsys: pytest.CaptureFixture[str]
) -> None:
    ends = {name: asyncio.Event() for name in ("first", "second")}

    @handler("tells")
    async def tells(context: Context) -> str:
        context.progress(0.3)
        await ends[context.payload].wait()
        return "done"

    await connection.execute("ALTER TABLE queue RENAME COLUMN progress_note TO away")
    await start_worker(tells, **STEADY)
    [first] = await add_tasks(connection, handler="tells", payload="first")
    [second] = await add_tasks(connection, handler="tells", payload="second")
    seen = ""

    async def refused() -> bool:
        nonlocal seen
        seen += capsys.readouterr().out
        return "progress_waits" in seen

    await eventually("a refusal", refused)
    ends["first"].set()
    assert (await end_of(connection, first))["outcome"] == "completed"
    await connection.execute("ALTER TABLE queue RENAME COLUMN away TO progress_note")
    await until_shown(connection, second, 0.3)
    ends["second"].set()
    assert (await end_of(connection, second))["outcome"] == "completed"


async def test_what_is_said_while_an_earlier_word_is_written_is_written_after_it(
    connection: asyncpg.Connection, start_worker: StartWorker, database: str
) -> None:
    await connection.execute(
        "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN PERFORM pg_advisory_xact_lock(1); RETURN NEW; END $$"
    )
    await connection.execute(
        "CREATE TRIGGER wait BEFORE UPDATE OF progress ON queue FOR EACH ROW EXECUTE FUNCTION wait()"
    )
    says, ends = asyncio.Event(), asyncio.Event()

    @handler("tells")
    async def tells(context: Context) -> None:
        context.progress(0.1)
        await says.wait()
        context.progress(0.2)
        await ends.wait()

    holder = await asyncpg.connect(database)
    async with holder.transaction():
        await holder.execute("SELECT pg_advisory_xact_lock(1)")
        await start_worker(tells, **STEADY)
        [task] = await add_tasks(connection, handler="tells")

        async def waits() -> bool:
            return bool(
                await connection.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted")
            )

        await eventually("a word that is being written", waits)
        says.set()
    await until_shown(connection, task, 0.2)
    ends.set()
    await end_of(connection, task)
    await holder.close()


async def test_what_is_said_in_the_handlers_transaction_is_written_after_it(
    connection: asyncpg.Connection, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried, ends = asyncio.Event(), asyncio.Event()

    async def watched(*arguments: Any) -> Any:
        noted = await note_progress(*arguments)
        tried.set()
        return noted

    monkeypatch.setattr(results, "note_progress", watched)

    @handler("tells")
    async def tells(context: Context) -> None:
        async with context.transaction():
            context.progress(0.6)
            await tried.wait()
        await ends.wait()

    await start_worker(tells, **STEADY)
    [task] = await add_tasks(connection, handler="tells")
    await until_shown(connection, task, 0.6)
    ends.set()
    await end_of(connection, task)


async def test_only_the_claim_that_holds_a_task_can_say_how_far_it_is(
    connection: asyncpg.Connection,
) -> None:
    worker, other = await add_worker(connection), await add_worker(connection)
    [task, waits] = await add_tasks(connection, 2)
    [claimed] = await claim(connection, worker, Bounds(["default"]), 1, start_at_once=True)
    task, waits = claimed.task_id, waits if claimed.task_id == task else task
    for who, words in (
        (other, Told(task, 1, HALF)),
        (worker, Told(task, 0, HALF)),
        (worker, Told(task, 2, HALF)),
        (worker, Told(waits, 0, HALF)),
    ):
        assert await note_progress(connection, who, [words]) == set()
    assert await shown(connection, task) is None
    assert await note_progress(connection, worker, [Told(waits, 0, HALF), Told(task, 1, HALF)]) == {
        (task, 1)
    }
    assert await shown(connection, task) == HALF


async def test_a_row_that_a_handlers_transaction_has_locked_is_left_for_the_next_time(
    connection: asyncpg.Connection, database: str
) -> None:
    worker = await add_worker(connection)
    await add_tasks(connection, 2)
    claims = await claim(connection, worker, Bounds(["default"]), 2, start_at_once=True)
    [locked, free] = [(c.task_id, c.fence) for c in claims]
    holder = await asyncpg.connect(database)
    words = [Told(*locked, HALF), Told(*free, HALF)]
    async with holder.transaction():
        assert await hold(holder, worker, locked)
        assert await note_progress(connection, worker, words) == {free}
    assert await note_progress(connection, worker, words) == {locked, free}
    await holder.close()


async def test_to_write_it_changes_no_index(connection: asyncpg.Connection) -> None:
    worker = await add_worker(connection)
    [task] = await add_tasks(connection)
    await claim(connection, worker, Bounds(["default"]), 1, start_at_once=True)
    updates = (
        "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_xact_user_tables WHERE relname = 'queue'"
    )
    async with connection.transaction():
        before = await connection.fetchrow(updates) or ()
        await note_progress(connection, worker, [Told(task, 1, HALF)])
        after = await connection.fetchrow(updates) or ()
    assert [new - old for new, old in zip(after, before, strict=True)] == [1, 1]
