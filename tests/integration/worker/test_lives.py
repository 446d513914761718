"""Workers that are killed, stopped, continued, drained and cut off: nothing is lost, nothing is done twice."""

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
from task_service.migrations.runner import migrate
from task_service.queue import workers
from task_service.queue.figures import release_worker
from task_service.store.database import create_engine
from task_service.worker.handlers import Context, handler
from task_service.worker.process import Worker
from tests.integration.worker.conftest import StartWorker
from tests.support.service_settings import settings_for
from tests.support.tasks import add_tasks, statuses
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import eventually
from tests.support.worker_process import CREATE_EFFECTS, sleep, spawn

pytestmark = pytest.mark.asyncio
PATIENT = {"lease_seconds": 3600, "heartbeat_seconds": 5}
"""With a lease of an hour nothing but the slot can tell of a death, and no stall of the machine looks like one."""
Spawn = Callable[..., tuple[subprocess.Popen[str], str]]


@pytest.fixture
def spawn_worker(database: str, tmp_path: Path) -> Iterator[Spawn]:
    """Start worker processes; whatever is left of them is killed in the end."""
    running: list[subprocess.Popen[str]] = []

    def start(slot: str | None = None, **settings: Any) -> tuple[subprocess.Popen[str], str]:
        process, worker_id = spawn(database, tmp_path / (slot or str(len(running))), **settings)
        running.append(process)
        return process, worker_id

    yield start
    for process in running:
        process.kill()
        process.wait()


async def running_on(connection: asyncpg.Connection, worker_id: str, count: int) -> None:
    async def held() -> bool:
        query = "SELECT count(*) FROM queue WHERE worker_id = $1::text::uuid AND state = 'running'"
        return bool(await connection.fetchval(query, worker_id) >= count)

    await eventually(f"{count} tasks on {worker_id}", held)


async def all_completed(connection: asyncpg.Connection, tasks: list[Any]) -> None:
    async def done() -> bool:
        return set(await statuses(connection, tasks)) == {"completed"}

    await eventually("every task's completion", done, 30)


async def test_the_lease_gives_a_killed_workers_tasks_to_another_one(
    connection: asyncpg.Connection, spawn_worker: Spawn
) -> None:
    await connection.execute(CREATE_EFFECTS)
    victim, victim_id = spawn_worker()
    tasks = await add_tasks(connection, 5, handler="sleep", payload=1.5)
    await running_on(connection, victim_id, 5)
    victim.kill()
    spawn_worker()
    await all_completed(connection, tasks)
    runs = await connection.fetch("SELECT worker_id, outcome, reason FROM runs WHERE NOT final")
    assert {(str(r["worker_id"]), r["outcome"], r["reason"]) for r in runs} == {
        (victim_id, "lost", "unknown")
    }
    assert await connection.fetchval("SELECT count(*) FROM effects") == 5


async def test_a_successor_in_the_same_slot_releases_its_predecessor_at_once(
    connection: asyncpg.Connection, spawn_worker: Spawn
) -> None:
    await connection.execute(CREATE_EFFECTS)
    victim, victim_id = spawn_worker("slot", **PATIENT)
    tasks = await add_tasks(connection, 3, handler="sleep", payload=0.5)
    await running_on(connection, victim_id, 3)
    victim.kill()
    victim.wait()
    spawn_worker("slot", **PATIENT)
    await all_completed(connection, tasks)


async def test_two_processes_of_one_host_have_slots_of_their_own(
    connection: asyncpg.Connection, spawn_worker: Spawn
) -> None:
    first, second = spawn_worker("slot"), spawn_worker("slot")
    assert first[1] != second[1]
    rows = await connection.fetch("SELECT state, slot FROM workers")
    assert [r["state"] for r in rows] == ["active", "active"]
    assert len({r["slot"] for r in rows}) == 2


async def test_a_stopped_worker_that_continues_completes_nothing_twice_and_works_again(
    connection: asyncpg.Connection, spawn_worker: Spawn
) -> None:
    await connection.execute(CREATE_EFFECTS)
    zombie, zombie_id = spawn_worker()
    tasks = await add_tasks(connection, 4, handler="sleep", payload=0.5)
    await running_on(connection, zombie_id, 4)
    zombie.send_signal(signal.SIGSTOP)
    other, _ = spawn_worker()
    await all_completed(connection, tasks)
    zombie.send_signal(signal.SIGCONT)

    async def registered_anew() -> bool:
        return await connection.fetchval("SELECT count(*) FROM workers WHERE state = 'active'") == 2

    await eventually("the zombie's new registration", registered_anew)
    effects = await connection.fetch("SELECT task_id, worker_id FROM effects")
    assert len(effects) == 4, "the zombie wrote nothing through its transaction"
    assert zombie_id not in {str(e["worker_id"]) for e in effects}
    assert await connection.fetchval("SELECT count(*) FROM runs WHERE final") == 4
    other.kill()
    more = await add_tasks(connection, 2, handler="sleep", payload=0)
    await all_completed(connection, more)


async def test_sigterm_lets_handlers_finish_and_releases_the_rest_uncounted(
    connection: asyncpg.Connection, spawn_worker: Spawn
) -> None:
    await connection.execute(CREATE_EFFECTS)
    worker, worker_id = spawn_worker(shutdown_seconds=5, lease_seconds=15)
    [short] = await add_tasks(connection, handler="sleep", payload=0.8)
    [long] = await add_tasks(connection, handler="sleep", payload=60)
    [blocked] = await add_tasks(connection, handler="block", payload=60)
    await running_on(connection, worker_id, 3)
    worker.terminate()
    assert await asyncio.to_thread(worker.wait, 20) == 0
    assert await statuses(connection, [short, long, blocked]) == ["completed", "pending", "pending"]
    rows = await connection.fetch("SELECT task_id, outcome, reason FROM runs WHERE NOT final")
    assert {(r["task_id"], r["outcome"], r["reason"]) for r in rows} == {
        (long, "released", "shutdown"), (blocked, "released", "shutdown"),
    }  # fmt: skip
    assert {r["attempt"] for r in await connection.fetch("SELECT attempt FROM queue")} == {0}
    assert await connection.fetchval("SELECT count(*) FROM workers WHERE state <> 'dead'") == 0


async def test_a_drained_worker_claims_no_more_and_finishes_what_it_has(
    connection: asyncpg.Connection, spawn_worker: Spawn
) -> None:
    await connection.execute(CREATE_EFFECTS)
    _, worker_id = spawn_worker()
    [running] = await add_tasks(connection, handler="sleep", payload=1)
    await running_on(connection, worker_id, 1)
    assert (
        await workers.drain(
            connection, (await connection.fetchval("SELECT id FROM workers")), Reason.SCALE_DOWN
        )
        == "draining"
    )
    [waiting] = await add_tasks(connection, handler="sleep", payload=0)
    await all_completed(connection, [running])
    assert await statuses(connection, [waiting]) == ["pending"]


@pytest.mark.parametrize("released_by_others", [False, True])
async def test_a_worker_that_could_not_renew_gives_its_former_tasks_back_without_suspicion(
    connection: asyncpg.Connection, start_worker: StartWorker, released_by_others: bool
) -> None:
    """An outage longer than the lease is nobody's crash: the process itself registers anew and says so."""
    await connection.execute(CREATE_EFFECTS)
    worker = await start_worker(sleep)
    tasks = await add_tasks(connection, 2, handler="sleep", payload=0.7)
    await eventually("both tasks run", lambda: _count_running(worker))
    former = worker.instance_id
    assert former is not None
    if released_by_others:
        await release_worker(connection, former, Reason.UNKNOWN)
    else:
        worker.membership._lose()
    worker.membership.wake.set()
    await all_completed(connection, tasks)
    assert worker.instance_id != former
    lost = await connection.fetch("SELECT reason FROM runs WHERE outcome = 'lost'")
    assert [run["reason"] for run in lost] == ["outage", "outage"]
    assert (
        await connection.fetchval("SELECT dead_reason FROM workers WHERE id = $1", former)
        == "outage"
    )


async def _count_running(worker: Worker) -> bool:
    return len(worker.current_task_ids) == 2


async def test_a_worker_whose_loop_has_ended_says_so_to_its_liveness_probe(
    start_worker: StartWorker,
) -> None:
    worker = await start_worker(sleep)
    assert worker.why_not_alive() is None
    loop = next(t for t in asyncio.all_tasks() if t.get_name() == "Claimer.run")
    loop.cancel()
    await asyncio.wait([loop])
    assert worker.why_not_alive() == "ended: Claimer.run"


async def test_a_task_that_kills_every_worker_is_put_aside_and_its_neighbours_complete(
    connection: asyncpg.Connection, spawn_worker: Spawn
) -> None:
    await connection.execute(CREATE_EFFECTS)
    good = await add_tasks(connection, 4, handler="sleep", payload=0.3)
    [poison] = await add_tasks(connection, handler="kill")
    for _ in range(3):
        worker, _ = spawn_worker("slot", **PATIENT)
        assert await asyncio.to_thread(worker.wait, 60) == -signal.SIGKILL
    spawn_worker("slot", **PATIENT)
    await all_completed(connection, good)

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


async def test_tasks_wait_while_the_database_is_restarted_and_nothing_is_lost(
    start_worker: StartWorker,
) -> None:
    """The server is killed as in a crash while tasks run; its own server, so that no other test is disturbed."""
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
        await all_completed(connection, tasks)
        assert await connection.fetchval("SELECT count(*) FROM effects") == 30
        assert await connection.fetchval("SELECT count(*) FROM runs WHERE final") == 30
        await connection.close()


async def test_a_worker_that_is_cut_off_has_stopped_its_runs_before_another_one_starts_them(
    connection: asyncpg.Connection, database: str, start_worker: StartWorker
) -> None:
    """Its connections stand still: nobody tells it that it is cut off but its own clock."""
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
        await eventually("the other one's right to judge", may_judge)
        proxy.pause()
        await eventually("the second run", lambda: has_started(2))
        assert events[:3] == [("start", 1), ("end", 1), ("start", 2)]
        proxy.resume()
        await first.stop()


CLAIMS_WAIT = """
CREATE FUNCTION wait_for_test() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN PERFORM pg_advisory_xact_lock_shared(1); RETURN NEW; END';
CREATE TRIGGER wait BEFORE UPDATE ON queue FOR EACH ROW WHEN (NEW.state = 'running') EXECUTE FUNCTION wait_for_test()
"""


async def test_a_claim_whose_answer_was_lost_does_not_stay_with_a_worker_that_lives(
    connection: asyncpg.Connection, database: str, start_worker: StartWorker
) -> None:
    """The claim is committed, the worker never hears of it, and goes on renewing its lease."""

    async def claim_waits() -> bool:
        return bool(
            await connection.fetchval(
                "SELECT count(*) FROM pg_locks WHERE NOT granted AND objid = 1"
            )
        )

    await connection.execute(CREATE_EFFECTS)
    await connection.execute(CLAIMS_WAIT)
    async with TcpProxy(database) as proxy:
        worker = await start_worker(sleep, database_url=proxy.url, lease_seconds=10)
        await connection.execute("SELECT pg_advisory_lock(1)")
        tasks = await add_tasks(connection, 3, handler="sleep", payload=0)
        await eventually("a claim", claim_waits)
        worker_id = worker.instance_id
        proxy.drop_responses = True
        await connection.execute("SELECT pg_advisory_unlock(1)")
        await running_on(connection, str(worker_id), 3)
        proxy.disconnect()
        await all_completed(connection, tasks)
        assert worker.instance_id == worker_id
        runs = await connection.fetch(
            "SELECT outcome, reason, attempt FROM runs WHERE task_id = ANY ($1)", tasks
        )
        ended = Counter((r["outcome"], r["reason"], r["attempt"]) for r in runs)
        assert ended == {("released", "outage", 1): 3, ("completed", None, 1): 3}
        assert await connection.fetchval("SELECT count(*) FROM effects") == 3
