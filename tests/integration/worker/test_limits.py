"""Limits across workers: what is sampled while handlers run, and what is left when one is killed."""

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest

from task_service.worker.handlers import Context, Handler, Retry, Snooze, handler
from tests.integration.queue.test_limits import set_limit
from tests.integration.worker.conftest import StartWorker
from tests.support.invariants import check_invariants
from tests.support.tasks import add_tasks
from tests.support.waiting import eventually
from tests.support.worker_process import spawn

pytestmark = pytest.mark.asyncio


class Gauge:
    """How many handlers run at a time, by a group that the payload names, and in which order they started."""

    def __init__(self) -> None:
        self.running: Counter[str] = Counter()
        self.most: dict[str, int] = defaultdict(int)
        self.order: list[UUID] = []
        self.starts: list[float] = []

    def handler(
        self, seconds: float = 0.005, then: Callable[[Context], None] = lambda _: None
    ) -> Handler:
        """A handler that is counted while it runs, for so long; `then` may raise."""

        @handler("counted")
        async def counted(context: Context) -> None:
            groups = context.payload or ["all"]
            self.order.append(context.task_id)
            self.starts.append(time.monotonic())
            for group in groups:
                self.running[group] += 1
                self.most[group] = max(self.most[group], self.running[group])
            try:
                await asyncio.sleep(seconds)
                then(context)
            finally:
                for group in groups:
                    self.running[group] -= 1

        return counted


async def all_ended(connection: asyncpg.Connection, count: int) -> None:
    """Wait until so many tasks have ended, and check what must hold then as well."""

    async def ended() -> bool:
        await check_invariants(connection)
        done = await connection.fetchval(
            "SELECT count(*) FROM runs WHERE final AND outcome = 'completed'"
        )
        return bool(done == count)

    await eventually(f"the end of {count} tasks", ended, 60)


async def start_four(start_worker: StartWorker, *handlers: Handler, **settings: object) -> None:
    """Their leases are long: who is declared dead while it lives runs on for a moment, beside who took its place."""
    for _ in range(4):
        await start_worker(
            *handlers, **({"worker_concurrency": 20, "lease_seconds": 15} | settings)
        )


@pytest.mark.parametrize("kind", ["queue", "key"])
async def test_a_concurrency_holds_across_workers_at_every_moment(
    start_worker: StartWorker, connection: asyncpg.Connection, kind: str
) -> None:
    await set_limit(connection, kind, "default", concurrency=5)
    gauge = Gauge()
    await start_four(start_worker, gauge.handler(), polls=False)
    await add_tasks(
        connection, 200, handler="counted", limit_key="default" if kind == "key" else None
    )
    await all_ended(connection, 200)
    assert gauge.most == {"all": 5}, "never more, and all the room was used"


async def test_tasks_under_two_limits_pass_both(
    start_worker: StartWorker, connection: asyncpg.Connection
) -> None:
    await set_limit(connection, "queue", "a", concurrency=4)
    await set_limit(connection, "key", "x", concurrency=3)
    gauge = Gauge()
    await start_four(start_worker, gauge.handler(), worker_queues="a,b")
    for queue, key in (("a", "x"), ("b", "x"), ("a", "y"), ("a", None)):
        await add_tasks(
            connection, 40, handler="counted", payload=[queue, str(key)], queue=queue, limit_key=key
        )
    await all_ended(connection, 160)
    assert gauge.most["a"] <= 4
    assert gauge.most["x"] <= 3


async def test_room_that_one_limit_leaves_over_is_used_without_a_poll(
    start_worker: StartWorker, connection: asyncpg.Connection
) -> None:
    """The key's oldest task is kept out of its queue by an urgent one: its place goes to another queue."""
    started: list[str] = []
    all_three = asyncio.Event()

    @handler("waits")
    async def waits(context: Context) -> None:
        started.append(context.payload)
        if len(started) == 3:
            all_three.set()
        await all_three.wait()

    await set_limit(connection, "queue", "full", concurrency=1)
    await set_limit(connection, "key", "x", concurrency=2)
    await start_worker(waits, Gauge().handler(), polls=False, worker_queues="default,full,free")
    await add_tasks(connection, handler="counted", limit_key="first")
    await all_ended(connection, 1)  # now the worker sleeps
    async with connection.transaction():
        await add_tasks(connection, 1, handler="waits", payload="full", queue="full", limit_key="x")
        await add_tasks(connection, 2, handler="waits", payload="free", queue="free", limit_key="x")
        await add_tasks(connection, 1, handler="waits", payload="urgent", queue="full", priority=0)
    await asyncio.wait_for(all_three.wait(), 15)
    assert sorted(started[:3]) == ["free", "free", "urgent"]


async def test_a_task_starts_when_it_comes_and_the_next_one_when_it_ends_without_a_poll(
    start_worker: StartWorker, connection: asyncpg.Connection
) -> None:
    await set_limit(connection, "key", "x", concurrency=1)
    gauge = Gauge()
    await start_worker(gauge.handler(), polls=False)
    for number in (10, 20):  # the second ten come when everybody sleeps
        await add_tasks(connection, 10, handler="counted", limit_key="x")
        await all_ended(connection, number)
    assert gauge.most == {"all": 1}


async def test_completing_in_the_handlers_transaction_makes_room_too(
    start_worker: StartWorker, connection: asyncpg.Connection
) -> None:
    @handler("writes")
    async def writes(context: Context) -> None:
        async with context.transaction() as transaction:
            await transaction.complete()

    await set_limit(connection, "key", "x", concurrency=1)
    await start_worker(writes, polls=False)
    await add_tasks(connection, 20, handler="writes", limit_key="x")
    await all_ended(connection, 20)


async def test_a_rate_holds_across_workers_and_the_next_start_waits_for_no_poll(
    start_worker: StartWorker, connection: asyncpg.Connection
) -> None:
    burst, period = 5, 1.0
    await set_limit(connection, "key", "x", rate=burst, period_seconds=period)
    gauge = Gauge()
    await start_four(start_worker, gauge.handler(0), polls=False)
    began = time.monotonic()
    await add_tasks(connection, 20, handler="counted", limit_key="x")
    await all_ended(connection, 20)
    for number, start in enumerate(gauge.starts, 1):
        assert number <= burst + (start - began) * burst / period, gauge.starts


async def test_a_limit_set_changed_and_removed_while_tasks_run(
    start_worker: StartWorker, connection: asyncpg.Connection
) -> None:
    gauge = Gauge()
    await start_four(start_worker, gauge.handler(0.02), poll_seconds=0.05)
    ids = await add_tasks(connection, 2_000, handler="counted")

    async def settled(most: int) -> bool:
        """No more than that run, and everything that is in line is under the limit."""
        rows = await connection.fetch("SELECT state, limited, count(*) FROM queue GROUP BY 1, 2")
        counts = {(row[0], row[1]): row[2] for row in rows}
        early = counts.get(("ready", False), 0) + counts.get(("running", False), 0)
        return (
            not early and counts.get(("running", True), 0) + counts.get(("ready", True), 0) <= most
        )

    for most in (10, 3, 6):
        await set_limit(connection, "queue", "default", concurrency=most)
        await eventually(f"a limit of {most}", lambda most=most: settled(most))
        gauge.most.clear()
        seen = len(gauge.order)

        async def twenty_more(seen: int = seen) -> bool:
            return len(gauge.order) >= seen + 20

        await eventually("twenty more starts", twenty_more)
        assert gauge.most["all"] <= most
    await connection.execute("DELETE FROM limits")
    await all_ended(connection, len(ids))
    assert gauge.most["all"] > 6, "without a limit they run as before"


async def test_retries_and_snoozes_keep_to_the_limit(
    start_worker: StartWorker, connection: asyncpg.Connection
) -> None:
    def again(context: Context) -> None:
        if context.attempt == 1 and context.fence == 1:
            raise Retry(0) if context.payload[-1] == "retry" else Snooze(0)

    await set_limit(connection, "key", "x", concurrency=2)
    gauge = Gauge()
    await start_four(start_worker, gauge.handler(then=again), poll_seconds=0.05)
    for way in ("retry", "snooze"):
        await add_tasks(connection, 20, handler="counted", payload=["all", way], limit_key="x")
    await all_ended(connection, 40)
    assert gauge.most["all"] == 2
    assert len(gauge.order) == 80, "each ran twice"


async def test_what_a_killed_worker_held_counts_until_it_is_released(
    start_worker: StartWorker, connection: asyncpg.Connection, database: str, tmp_path: Path
) -> None:
    """Nothing starts in their place before they are its no more."""
    await set_limit(connection, "key", "x", concurrency=3)
    doomed, doomed_id = spawn(database, tmp_path / "doomed")
    try:
        held = await add_tasks(connection, 3, handler="sleep", payload=60, limit_key="x")

        async def all_held() -> bool:
            return (
                await connection.fetchval(
                    "SELECT count(*) FROM queue WHERE worker_id = $1", UUID(doomed_id)
                )
                == 3
            )

        await eventually("the claims", all_held)
    finally:
        doomed.kill()
        doomed.wait()

    @handler("sleep")
    async def sleep(_: Context) -> None:
        """Another life of the tasks, in which they are quick."""

    gauge = Gauge()
    await start_worker(gauge.handler(), sleep, polls=False)
    others = await add_tasks(connection, 20, handler="counted", limit_key="x")
    await all_ended(connection, len(held) + len(others))
    lost = await connection.fetchval("SELECT count(*) FROM runs WHERE outcome = 'lost'")
    assert lost == 3
    first_start = await connection.fetchval(
        "SELECT min(claimed_at) FROM runs WHERE task_id = ANY ($1)", others
    )
    assert first_start > await connection.fetchval(
        "SELECT max(finished_at) FROM runs WHERE outcome = 'lost'"
    )


async def test_a_crowd_of_one_key_does_not_keep_another_key_waiting(
    start_worker: StartWorker, connection: asyncpg.Connection
) -> None:
    await add_tasks(connection, 5_000, handler="counted", limit_key="many")
    few = await add_tasks(connection, 10, handler="counted", limit_key="few")
    gauge = Gauge()
    await start_worker(gauge.handler(0), worker_concurrency=5)
    await all_ended(connection, 5_010)
    places = [gauge.order.index(task) for task in few]
    assert max(places) < 2_000, "the ten, which came last, started before most of the five thousand"


async def test_a_crowd_in_one_queue_does_not_keep_another_queue_waiting(
    start_worker: StartWorker, connection: asyncpg.Connection
) -> None:
    await add_tasks(connection, 3_000, handler="counted", queue="many")
    few = await add_tasks(connection, 10, handler="counted", queue="few")
    gauge = Gauge()
    await start_worker(gauge.handler(0), worker_concurrency=5, worker_queues="many,few")
    await all_ended(connection, 3_010)
    places = [gauge.order.index(task) for task in few]
    assert max(places) < 2_000
