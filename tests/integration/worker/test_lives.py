"""Workers that are killed, stopped, drained or disconnected lose and repeat no task."""

import asyncio
import signal
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from task_service.domain.outcomes import Reason
from task_service.embedded import EmbeddedPostgres
from task_service.migrations.upgrade import migrate
from task_service.queue import workers
from task_service.queue.workers import release_worker
from task_service.store.database import create_engine
from task_service.worker.handlers import Context, handler
from task_service.worker.process import Worker
from tests.support.service_settings import settings_for
from tests.support.tasks import add_tasks, statuses
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import eventually
from tests.support.worker_process import CREATE_EFFECTS, sleep, spawn
from tests.support.worker_runs import StartWorker

pytestmark = pytest.mark.asyncio
PATIENT = {"lease_seconds": 3600, "heartbeat_seconds": 5}
"""A lease of an hour: only the slot shows a death, and a slow machine does not look like one."""
Spawn = Callable[..., tuple[subprocess.Popen[str], str]]


@pytest.fixture
def spawn_worker(database: str, tmp_path: Path) -> Iterator[Spawn]:
    """Return a function that starts worker processes, which are killed afterwards."""
    running: list[subprocess.Popen[str]] = []

    def start(slot: str | None = None, **settings: Any) -> tuple[subprocess.Popen[str], str]:
        process, worker_id = spawn(database, tmp_path / (slot or str(len(running))), **settings)
        running.append(process)
        return process, worker_id

    yield start
    for process in running:
        process.kill()
        process.wait()


async def wait_until_running(connection: asyncpg.Connection, worker_id: str, count: int) -> None:
    async def held() -> bool:
        query = "SELECT count(*) FROM queue WHERE worker_id = $1::text::uuid AND state = 'running'"
        return bool(await connection.fetchval(query, worker_id) >= count)

    await eventually(f"{count} tasks on {worker_id}", held)


async def wait_for_completions(connection: asyncpg.Connection, tasks: list[Any]) -> None:
    async def done() -> bool:
        return set(await statuses(connection, tasks)) == {"completed"}

    await eventually("every task's completion", done, 30)


async def test_tasks_of_a_killed_worker_are_released_when_its_lease_expires(
    connection: asyncpg.Connection, spawn_worker: Spawn
) -> None:
    await connection.execute(CREATE_EFFECTS)
    victim, victim_id = spawn_worker()
    tasks = await add_tasks(connection, 5, handler="sleep", payload=1.5)
    await wait_until_running(connection, victim_id, 5)
    victim.kill()
    spawn_worker()
    await wait_for_completions(connection, tasks)
    runs = await connection.fetch("SELECT worker_id, outcome, reason FROM runs WHERE NOT final")
    assert {(str(r["worker_id"]), r["outcome"], r["reason"]) for r in runs} == {
        (victim_id, "lost", "unknown")
    }
    assert await connection.fetchval("SELECT count(*) FROM effects") == 5


async def test_successor_in_the_same_slot_releases_its_predecessor_at_once(
    connection: asyncpg.Connection, spawn_worker: Spawn
) -> None:
    await connection.execute(CREATE_EFFECTS)
    victim, victim_id = spawn_worker("slot", **PATIENT)
    tasks = await add_tasks(connection, 3, handler="sleep", payload=0.5)
    await wait_until_running(connection, victim_id, 3)
    victim.kill()
    victim.wait()
    spawn_worker("slot", **PATIENT)
    await wait_for_completions(connection, tasks)


async def test_two_processes_on_one_host_use_different_slots(
    connection: asyncpg.Connection, spawn_worker: Spawn
) -> None:
    first, second = spawn_worker("slot"), spawn_worker("slot")
    assert first[1] != second[1]
    rows = await connection.fetch("SELECT state, slot FROM workers")
    assert [r["state"] for r in rows] == ["active", "active"]
    assert len({r["slot"] for r in rows}) == 2


async def test_resumed_worker_completes_no_task_twice_and_works_again(
    connection: asyncpg.Connection, spawn_worker: Spawn
) -> None:
    await connection.execute(CREATE_EFFECTS)
    stopped, stopped_id = spawn_worker()
    tasks = await add_tasks(connection, 4, handler="sleep", payload=0.5)
    await wait_until_running(connection, stopped_id, 4)
    stopped.send_signal(signal.SIGSTOP)
    other, _ = spawn_worker()
    await wait_for_completions(connection, tasks)
    stopped.send_signal(signal.SIGCONT)

    async def registered_again() -> bool:
        query = "SELECT count(*) FROM workers WHERE state = 'active'"
        return bool(await connection.fetchval(query) == 2)

    await eventually("the new registration", registered_again)
    effects = await connection.fetch("SELECT task_id, worker_id FROM effects")
    assert len(effects) == 4, "the stopped worker wrote nothing in its transaction"
    assert stopped_id not in {str(e["worker_id"]) for e in effects}
    assert await connection.fetchval("SELECT count(*) FROM runs WHERE final") == 4
    other.kill()
    more = await add_tasks(connection, 2, handler="sleep", payload=0)
    await wait_for_completions(connection, more)


async def test_sigterm_lets_handlers_finish_and_releases_the_rest_without_counting(
    connection: asyncpg.Connection, spawn_worker: Spawn
) -> None:
    await connection.execute(CREATE_EFFECTS)
    worker, worker_id = spawn_worker(shutdown_seconds=5, lease_seconds=15)
    [short] = await add_tasks(connection, handler="sleep", payload=0.8)
    [long] = await add_tasks(connection, handler="sleep", payload=60)
    [blocked] = await add_tasks(connection, handler="block", payload=60)
    await wait_until_running(connection, worker_id, 3)
    worker.terminate()
    assert await asyncio.to_thread(worker.wait, 20) == 0
    assert await statuses(connection, [short, long, blocked]) == ["completed", "pending", "pending"]
    rows = await connection.fetch("SELECT task_id, outcome, reason FROM runs WHERE NOT final")
    assert {(r["task_id"], r["outcome"], r["reason"]) for r in rows} == {
        (long, "released", "shutdown"), (blocked, "released", "shutdown"),
    }  # fmt: skip
    assert {r["attempt"] for r in await connection.fetch("SELECT attempt FROM queue")} == {0}
    assert await connection.fetchval("SELECT count(*) FROM workers WHERE state <> 'dead'") == 0


async def test_drained_worker_finishes_its_tasks_and_claims_no_more(
    connection: asyncpg.Connection, spawn_worker: Spawn
) -> None:
    await connection.execute(CREATE_EFFECTS)
    _, worker_id = spawn_worker()
    [running] = await add_tasks(connection, handler="sleep", payload=1)
    await wait_until_running(connection, worker_id, 1)
    assert (
        await workers.drain(
            connection, (await connection.fetchval("SELECT id FROM workers")), Reason.SCALE_DOWN
        )
        == "draining"
    )
    [waiting] = await add_tasks(connection, handler="sleep", payload=0)
    await wait_for_completions(connection, [running])
    assert await statuses(connection, [waiting]) == ["pending"]


@pytest.mark.parametrize("released_by_others", [False, True])
async def test_worker_that_lost_its_lease_reports_an_outage_for_its_tasks(
    connection: asyncpg.Connection, start_worker: StartWorker, released_by_others: bool
) -> None:
    """After an outage longer than the lease, the process registers again and reports an outage."""
    await connection.execute(CREATE_EFFECTS)
    worker = await start_worker(sleep)
    tasks = await add_tasks(connection, 2, handler="sleep", payload=0.7)
    await eventually("both tasks run", lambda: _count_running(worker))
    previous = worker.instance_id
    assert previous is not None
    if released_by_others:
        await release_worker(connection, previous, Reason.UNKNOWN)
    else:
        worker.membership._lose()
    worker.membership.wake.set()
    await wait_for_completions(connection, tasks)
    assert worker.instance_id != previous
    lost = await connection.fetch("SELECT reason FROM runs WHERE outcome = 'lost'")
    assert [run["reason"] for run in lost] == ["outage", "outage"]
    assert (
        await connection.fetchval("SELECT dead_reason FROM workers WHERE id = $1", previous)
        == "outage"
    )


async def _count_running(worker: Worker) -> bool:
    return len(worker.current_task_ids) == 2


async def test_liveness_probe_names_an_ended_loop(
    start_worker: StartWorker,
) -> None:
    worker = await start_worker(sleep)
    assert worker.why_not_alive() is None
    loop = next(t for t in asyncio.all_tasks() if t.get_name() == "Claimer.run")
    loop.cancel()
    await asyncio.wait([loop])
    assert worker.why_not_alive() == "ended: Claimer.run"


async def test_task_that_kills_every_worker_fails_and_other_tasks_complete(
    connection: asyncpg.Connection, spawn_worker: Spawn
) -> None:
    await connection.execute(CREATE_EFFECTS)
    good = await add_tasks(connection, 4, handler="sleep", payload=0.3)
    [poison] = await add_tasks(connection, handler="kill")
    for _ in range(3):
        worker, _ = spawn_worker("slot", **PATIENT)
        assert await asyncio.to_thread(worker.wait, 60) == -signal.SIGKILL
    spawn_worker("slot", **PATIENT)
    await wait_for_completions(connection, good)

    async def put_aside() -> bool:
        return await statuses(connection, [poison]) == ["failed"]

    await eventually("the poison is put aside", put_aside)
    runs = await connection.fetch(
        "SELECT outcome, final FROM runs WHERE task_id = $1 ORDER BY fence", poison
    )
    assert [(r["outcome"], r["final"]) for r in runs] == [
        ("lost", False),
        ("lost", False),
        ("lost", True),
    ]


async def test_no_task_is_lost_when_the_database_restarts(
    start_worker: StartWorker,
) -> None:
    """Kill a PostgreSQL server of this test's own while tasks run."""
    with (
        tempfile.TemporaryDirectory(prefix="task-service-crash-", dir="/var/tmp") as folder,
        EmbeddedPostgres(Path(folder)) as server,
    ):
        settings = settings_for(server.url())
        engine = create_engine(settings, pooled=False)
        await migrate(engine)
        connection = await asyncpg.connect(server.url())
        await connection.execute(CREATE_EFFECTS)
        tasks = await add_tasks(connection, 30, handler="sleep", payload=0.2)
        await start_worker(sleep, database_url=server.url(), worker_concurrency=5)
        await eventually(
            "a first completion", lambda: connection.fetchval("SELECT count(*) FROM effects")
        )
        server.stop(signal.SIGQUIT)
        server.start()
        connection = await asyncpg.connect(server.url())
        await wait_for_completions(connection, tasks)
        assert await connection.fetchval("SELECT count(*) FROM effects") == 30
        assert await connection.fetchval("SELECT count(*) FROM runs WHERE final") == 30
        await connection.close()


async def test_disconnected_worker_stops_its_runs_before_another_one_starts_them(
    connection: asyncpg.Connection, database: str, start_worker: StartWorker
) -> None:
    """Its connections hang, so only its own clock shows that the lease is over."""
    events: list[tuple[str, int]] = []

    @handler("watched")
    async def watched(context: Context) -> None:
        events.append(("start", context.fence))
        try:
            if context.fence == 1:
                await asyncio.Event().wait()
        finally:
            events.append(("end", context.fence))

    async def has_started(fence: int) -> bool:
        return ("start", fence) in events

    async def may_judge() -> bool:
        return other.membership.may_judge()

    async with TcpProxy(database) as proxy:
        first = await start_worker(watched, database_url=proxy.url)
        await add_tasks(connection, handler="watched")
        await eventually("the first run", lambda: has_started(1))
        other = await start_worker(watched)
        await eventually("the permission of the other worker to judge", may_judge)
        proxy.pause()
        await eventually("the second run", lambda: has_started(2))
        assert events[:3] == [("start", 1), ("end", 1), ("start", 2)]
        proxy.resume()
        await first.stop()


BLOCK_CLAIMS = """
CREATE FUNCTION wait_for_test() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN PERFORM pg_advisory_xact_lock_shared(1); RETURN NEW; END';
CREATE TRIGGER wait BEFORE UPDATE ON queue FOR EACH ROW
    WHEN (NEW.state = 'running') EXECUTE FUNCTION wait_for_test()
"""


async def test_claim_with_a_lost_response_is_released_by_its_living_worker(
    connection: asyncpg.Connection, database: str, start_worker: StartWorker
) -> None:
    """The claim commits, but the worker does not receive it and continues to renew its lease."""

    async def claim_is_waiting() -> bool:
        return bool(
            await connection.fetchval(
                "SELECT count(*) FROM pg_locks WHERE NOT granted AND objid = 1"
            )
        )

    await connection.execute(CREATE_EFFECTS)
    await connection.execute(BLOCK_CLAIMS)
    async with TcpProxy(database) as proxy:
        worker = await start_worker(sleep, database_url=proxy.url, lease_seconds=10)
        await connection.execute("SELECT pg_advisory_lock(1)")
        tasks = await add_tasks(connection, 3, handler="sleep", payload=0)
        await eventually("a claim", claim_is_waiting)
        worker_id = worker.instance_id
        proxy.drop_responses = True
        await connection.execute("SELECT pg_advisory_unlock(1)")
        await wait_until_running(connection, str(worker_id), 3)
        proxy.disconnect()
        await wait_for_completions(connection, tasks)
        assert worker.instance_id == worker_id
        runs = await connection.fetch(
            "SELECT outcome, reason, attempt FROM runs WHERE task_id = ANY ($1)", tasks
        )
        ended = Counter((r["outcome"], r["reason"], r["attempt"]) for r in runs)
        assert ended == {("released", "outage", 1): 3, ("completed", None, 1): 3}
        assert await connection.fetchval("SELECT count(*) FROM effects") == 3
