"""Limits across several workers, sampled while handlers run and after a worker was killed."""

import asyncio
import functools
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest

from task_service.worker.handlers import Context, Handler, Retry, Snooze, handler
from tests.support.invariants import check_invariants
from tests.support.tasks import add_tasks, set_limit
from tests.support.waiting import eventually
from tests.support.worker_process import spawn
from tests.support.worker_runs import StartWorker

pytestmark = pytest.mark.asyncio


class Gauge:
    """Count concurrent handlers by the groups in their payload, and record their starts."""

    def __init__(self) -> None:
        self.running: Counter[str] = Counter()
        self.maximum: dict[str, int] = defaultdict(int)
        self.order: list[UUID] = []
        self.starts: list[float] = []

    def handler(
        self, seconds: float = 0.005, then: Callable[[Context], None] = lambda _: None
    ) -> Handler:
        """Return a handler that is counted while it runs; `then` may raise."""

        @handler("counted")
        async def counted(context: Context) -> None:
            groups = context.payload or ["all"]
            self.order.append(context.task_id)
            self.starts.append(time.monotonic())
            for group in groups:
                self.running[group] += 1
                self.maximum[group] = max(self.maximum[group], self.running[group])
            try:
                await asyncio.sleep(seconds)
                then(context)
            finally:
                for group in groups:
                    self.running[group] -= 1

        return counted


async def wait_for_completions(connection: asyncpg.Connection, count: int) -> None:
    """Wait until `count` tasks have completed, and check the invariants meanwhile."""

    async def ended() -> bool:
        await check_invariants(connection)
        done = await connection.fetchval(
            "SELECT count(*) FROM runs WHERE final AND outcome = 'completed'"
        )
        return bool(done == count)

    await eventually(f"the end of {count} tasks", ended, 60)


async def start_four(start_worker: StartWorker, *handlers: Handler, **settings: object) -> None:
    """Start four workers with long leases, so that none is declared dead while it lives."""
    for _ in range(4):
        await start_worker(
            *handlers, **({"worker_concurrency": 20, "lease_seconds": 15} | settings)
        )


@pytest.mark.parametrize("kind", ["queue", "key"])
async def test_concurrency_limit_is_never_exceeded_across_workers(
    start_worker: StartWorker, connection: asyncpg.Connection, kind: str
) -> None:
    await set_limit(connection, kind, "default", concurrency=5)
    gauge = Gauge()
    await start_four(start_worker, gauge.handler(), polls=False)
    await add_tasks(
        connection, 200, handler="counted", limit_key="default" if kind == "key" else None
    )
    await wait_for_completions(connection, 200)
    assert gauge.maximum == {"all": 5}, "the limit is used completely and never exceeded"


async def test_tasks_under_two_limits_respect_both(
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
    await wait_for_completions(connection, 160)
    assert gauge.maximum["a"] <= 4
    assert gauge.maximum["x"] <= 3


async def test_capacity_left_by_one_limit_is_used_without_polling(
    start_worker: StartWorker, connection: asyncpg.Connection
) -> None:
    """An urgent task blocks the oldest task of the key, so another queue uses the capacity."""
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
    await wait_for_completions(connection, 1)  # now the worker is idle
    async with connection.transaction():
        await add_tasks(connection, 1, handler="waits", payload="full", queue="full", limit_key="x")
        await add_tasks(connection, 2, handler="waits", payload="free", queue="free", limit_key="x")
        await add_tasks(connection, 1, handler="waits", payload="urgent", queue="full", priority=0)
    await asyncio.wait_for(all_three.wait(), 15)
    assert sorted(started[:3]) == ["free", "free", "urgent"]


async def test_limited_tasks_start_on_arrival_and_completion_without_polling(
    start_worker: StartWorker, connection: asyncpg.Connection
) -> None:
    await set_limit(connection, "key", "x", concurrency=1)
    gauge = Gauge()
    await start_worker(gauge.handler(), polls=False)
    for number in (10, 20):  # the second ten arrive when the worker is idle
        await add_tasks(connection, 10, handler="counted", limit_key="x")
        await wait_for_completions(connection, number)
    assert gauge.maximum == {"all": 1}


async def test_completion_in_the_handlers_transaction_frees_capacity(
    start_worker: StartWorker, connection: asyncpg.Connection
) -> None:
    @handler("writes")
    async def writes(context: Context) -> None:
        async with context.transaction() as transaction:
            await transaction.complete()

    await set_limit(connection, "key", "x", concurrency=1)
    await start_worker(writes, polls=False)
    await add_tasks(connection, 20, handler="writes", limit_key="x")
    await wait_for_completions(connection, 20)


async def test_rate_limit_holds_across_workers_without_polling(
    start_worker: StartWorker, connection: asyncpg.Connection
) -> None:
    burst, period = 5, 1.0
    await set_limit(connection, "key", "x", rate=burst, period_seconds=period)
    gauge = Gauge()
    await start_four(start_worker, gauge.handler(0), polls=False)
    began = time.monotonic()
    await add_tasks(connection, 20, handler="counted", limit_key="x")
    await wait_for_completions(connection, 20)
    for number, start in enumerate(gauge.starts, 1):
        assert number <= burst + (start - began) * burst / period, gauge.starts


async def test_limit_can_be_set_changed_and_removed_while_tasks_run(
    start_worker: StartWorker, connection: asyncpg.Connection
) -> None:
    gauge = Gauge()
    await start_four(start_worker, gauge.handler(0.02), poll_seconds=0.05)
    ids = await add_tasks(connection, 2_000, handler="counted")

    async def settled(limit: int) -> bool:
        """Check that the limit covers every task and is not exceeded."""
        rows = await connection.fetch("SELECT state, limited, count(*) FROM queue GROUP BY 1, 2")
        counts = {(row[0], row[1]): row[2] for row in rows}
        unlimited = counts.get(("ready", False), 0) + counts.get(("running", False), 0)
        limited = counts.get(("running", True), 0) + counts.get(("ready", True), 0)
        return not unlimited and limited <= limit

    for limit in (10, 3, 6):
        await set_limit(connection, "queue", "default", concurrency=limit)
        await eventually(f"a limit of {limit}", functools.partial(settled, limit))
        gauge.maximum.clear()
        seen = len(gauge.order)

        async def twenty_more(seen: int = seen) -> bool:
            return len(gauge.order) >= seen + 20

        await eventually("twenty more starts", twenty_more)
        assert gauge.maximum["all"] <= limit
    await connection.execute("DELETE FROM limits")
    await wait_for_completions(connection, len(ids))
    assert gauge.maximum["all"] > 6, "without a limit more tasks run"


async def test_retries_and_snoozes_respect_the_limit(
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
    await wait_for_completions(connection, 40)
    assert gauge.maximum["all"] == 2
    assert len(gauge.order) == 80, "each ran twice"


async def test_tasks_of_a_killed_worker_count_until_they_are_released(
    start_worker: StartWorker, connection: asyncpg.Connection, database: str, tmp_path: Path
) -> None:
    """No other task starts before its tasks are released."""
    await set_limit(connection, "key", "x", concurrency=3)
    victim, victim_id = spawn(database, tmp_path / "victim")
    try:
        held = await add_tasks(connection, 3, handler="sleep", payload=60, limit_key="x")

        async def all_held() -> bool:
            query = "SELECT count(*) FROM queue WHERE worker_id = $1"
            return bool(await connection.fetchval(query, UUID(victim_id)) == 3)

        await eventually("the claims", all_held)
    finally:
        victim.kill()
        victim.wait()

    @handler("sleep")
    async def sleep(_: Context) -> None:
        """Complete the released tasks at once."""

    gauge = Gauge()
    await start_worker(gauge.handler(), sleep, polls=False)
    others = await add_tasks(connection, 20, handler="counted", limit_key="x")
    await wait_for_completions(connection, len(held) + len(others))
    lost = await connection.fetchval("SELECT count(*) FROM runs WHERE outcome = 'lost'")
    assert lost == 3
    first_start = await connection.fetchval(
        "SELECT min(claimed_at) FROM runs WHERE task_id = ANY ($1)", others
    )
    assert first_start > await connection.fetchval(
        "SELECT max(finished_at) FROM runs WHERE outcome = 'lost'"
    )


async def test_many_tasks_of_one_key_do_not_delay_another_key(
    start_worker: StartWorker, connection: asyncpg.Connection
) -> None:
    await add_tasks(connection, 5_000, handler="counted", limit_key="many")
    few = await add_tasks(connection, 10, handler="counted", limit_key="few")
    gauge = Gauge()
    await start_worker(gauge.handler(0), worker_concurrency=5)
    await wait_for_completions(connection, 5_010)
    places = [gauge.order.index(task) for task in few]
    assert max(places) < 2_000, "the ten newest tasks start before most of the five thousand"


async def test_many_tasks_in_one_queue_do_not_delay_another_queue(
    start_worker: StartWorker, connection: asyncpg.Connection
) -> None:
    await add_tasks(connection, 3_000, handler="counted", queue="many")
    few = await add_tasks(connection, 10, handler="counted", queue="few")
    gauge = Gauge()
    await start_worker(gauge.handler(0), worker_concurrency=5, worker_queues="many,few")
    await wait_for_completions(connection, 3_010)
    places = [gauge.order.index(task) for task in few]
    assert max(places) < 2_000
