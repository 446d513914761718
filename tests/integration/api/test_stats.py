"""Statistics: they equal a count whenever no transaction is open."""

import asyncio
import json
import random
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from task_service.domain.outcomes import Outcome, Reason
from task_service.domain.priorities import Priority
from task_service.domain.statuses import Status
from task_service.loops.folding import folding_loop
from task_service.migrations import VERSIONS
from task_service.queue import limits, workers
from task_service.queue.claims import Bounds, claim
from task_service.queue.counters import fold
from task_service.queue.figures import queue_figures
from task_service.queue.results import Finished, GivenBack, finish, give_back
from task_service.queue.statements import statement
from tests.support.task_api import TASKS, create_task
from tests.support.tasks import add_tasks, add_worker
from tests.support.waiting import eventually

pytestmark = pytest.mark.asyncio
SUMMARY = f"{TASKS}/stats/summary"
QUEUES = ("default", "mail")
COUNT_QUEUE = """
    SELECT queue, state, run_at > statement_timestamp() AS later, count(*) FROM queue GROUP BY 1, 2, 3
"""


async def check_statistics(
    client: httpx.AsyncClient, connection: asyncpg.Connection, what: str
) -> None:
    """Assert that the summary and the figures of the queue equal a count."""
    response = await client.get(SUMMARY)
    assert response.status_code == 200, response.text
    rows = await connection.fetch(
        "SELECT status, priority, count(*) FROM task_view WHERE deleted_at IS NULL GROUP BY 1, 2"
    )
    statuses, priorities = Counter[str](), Counter[str]()
    for status, rank, number in rows:
        statuses[status] += number
        priorities[list(Priority)[rank]] += number
    shown = response.json()
    assert shown["by_status"] == {s: statuses[s] for s in Status}, what
    assert shown["by_priority"] == {p: priorities[p] for p in Priority}, what
    assert shown["total"] == statuses.total(), what
    counted: dict[str, Counter[str]] = {}
    for name, state, later, number in await connection.fetch(COUNT_QUEUE):
        kind = "running" if state == "running" else "scheduled" if later else state
        counted.setdefault(name, Counter())[kind] += number
    for bound in (1, 2, 20_000):  # small limits force the other branch, and the full count
        found = await connection.fetch(statement("figures"), bound)
        figures = {
            f["name"]: +Counter({k: f[k] for k in ("ready", "scheduled", "running", "blocked")})
            for f in found
        }
        assert figures == counted, f"{what}, at most {bound} counted"


class RandomActor:
    """Performs random actions, through the API or as a worker."""

    def __init__(
        self, client: httpx.AsyncClient, connection: asyncpg.Connection, seed: int
    ) -> None:
        self.client, self.connection, self.random = client, connection, random.Random(seed)
        self.ids: list[str] = []

    async def run_one(self) -> str:
        """Perform one random action and return its name."""
        action = self.random.choice([
            self.create, self.create, self.create_many, self.change, self.change, self.cancel, self.retry,
            self.delete, self.delete, self.claim, self.claim, self.claim, self.finish, self.finish, self.give_back,
            self.lose_worker, self.fold, self.create_limited, self.admit, self.admit,
        ])  # fmt: skip
        await action()
        return action.__name__

    def any_id(self) -> str:
        """Return the id of any task, including deleted ones."""
        return self.random.choice(self.ids) if self.ids else "0195d6a2-8c4f-7a3e-9a51-3f6f2d1c0b4a"

    def run_at(self) -> str | None:
        """Return no time, or one far enough in the future that the test does not reach it."""
        return (
            (datetime.now(UTC) + timedelta(days=1)).isoformat()
            if self.random.random() < 0.3
            else None
        )

    async def create(self) -> None:
        handler = self.random.choice([None, "noop", "noop"])
        status = (
            "pending"
            if handler
            else self.random.choice(["pending", "in_progress", "completed", "failed"])
        )
        priority = self.random.choice(list(Priority))
        given = {
            "status": status,
            "priority": priority,
            "queue": self.random.choice(QUEUES),
            "run_at": self.run_at(),
        }
        self.ids.append((await create_task(self.client, handler=handler, **given))["id"])

    async def create_limited(self) -> None:
        given = {
            "limit_key": self.random.choice("xyz"),
            "queue": self.random.choice(QUEUES),
            "run_at": self.run_at(),
        }
        self.ids.append((await create_task(self.client, handler="noop", **given))["id"])

    async def admit(self) -> None:
        await limits.admit(self.connection)

    async def create_many(self) -> None:
        self.ids += [str(i) for i in await add_tasks(self.connection, self.random.randint(1, 5))]

    async def change(self) -> None:
        changes: list[dict[str, Any]] = [
            {"priority": self.random.choice(list(Priority))}, {"queue": self.random.choice(QUEUES)},
            {"handler": "noop"}, {"handler": None}, {"status": "in_progress"}, {"status": "completed"},
            {"title": "another"}, {"run_at": self.run_at()},
        ]  # fmt: skip
        await self.client.patch(f"{TASKS}/{self.any_id()}", json=self.random.choice(changes))

    async def cancel(self) -> None:
        await self.client.post(f"{TASKS}/{self.any_id()}:cancel")

    async def retry(self) -> None:
        await self.client.post(f"{TASKS}/{self.any_id()}:retry")

    async def delete(self) -> None:
        hard = self.random.random() < 0.3
        await self.client.delete(f"{TASKS}/{self.any_id()}", params={"hard": hard})

    async def claim(self) -> None:
        worker = await add_worker(self.connection)
        bounds, most = Bounds(list(QUEUES)), self.random.randint(1, 4)
        await claim(self.connection, worker, bounds, most, start_at_once=True)

    async def finish(self) -> None:
        ends = [
            Outcome.COMPLETED,
            Outcome.FAILED,
            Outcome.CANCELLED,
            Outcome.DISCARDED,
            Outcome.TIMED_OUT,
        ]
        for held, worker in await self._held(3):
            await finish(
                self.connection, worker, [Finished(held[0], held[1], self.random.choice(ends))]
            )

    async def give_back(self) -> None:
        delay = self.random.choice([0.0, 3600.0])
        for held, worker in await self._held(2):
            back = GivenBack(held[0], held[1], Outcome.FAILED, error="no", delay_seconds=delay)
            await give_back(self.connection, worker, [back])

    async def lose_worker(self) -> None:
        for _, worker in await self._held(1):
            reason = self.random.choice([Reason.CRASH, Reason.DRAIN])
            await workers.declare_dead(self.connection, worker, reason)
            await workers.release(self.connection, worker, reason)

    async def fold(self) -> None:
        await fold(self.connection)

    async def _held(self, most: int) -> list[tuple[tuple[UUID, int], UUID]]:
        rows = await self.connection.fetch(
            "SELECT task_id, fence, worker_id FROM queue WHERE state = 'running'"
        )
        rows = self.random.sample(rows, min(most, len(rows)))
        return [((row["task_id"], row["fence"]), row["worker_id"]) for row in rows]


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_statistics_equal_a_count_after_any_sequence_of_actions(
    client: httpx.AsyncClient, connection: asyncpg.Connection, seed: int
) -> None:
    actor, done = RandomActor(client, connection, seed), Counter[str]()
    for _ in range(150):
        what = await actor.run_one()
        done[what] += 1
        await check_statistics(client, connection, f"after {what}, seed {seed}")
    assert len(done) == 13, done


async def test_concurrent_changes_and_folding_lose_no_count(
    client: httpx.AsyncClient, connection: asyncpg.Connection, database: str
) -> None:
    async def folding(folder: asyncpg.Connection) -> None:
        while True:
            await fold(folder)

    folders = [await asyncpg.connect(database) for _ in range(3)]
    loops = [asyncio.create_task(folding(f)) for f in folders]
    made: list[dict[str, Any]] = []
    for _ in range(6):  # more at once would exceed the pool timeout of the test
        batch = await asyncio.gather(*(create_task(client, priority="urgent") for _ in range(10)))
        await asyncio.gather(*(client.post(f"{TASKS}/{t['id']}:cancel") for t in batch[:5]))
        made += batch
    assert len(made) == 60
    for loop in loops:
        loop.cancel()
    await asyncio.gather(*loops, return_exceptions=True)
    for folder in folders:
        folder.terminate()
    await check_statistics(client, connection, "afterwards")
    assert (await client.get(SUMMARY)).json()["by_status"]["cancelled"] == 30


async def test_api_process_folds_in_the_background(
    engine: AsyncEngine, connection: asyncpg.Connection
) -> None:
    folding = folding_loop(engine, 0.01)
    await folding.start()
    await add_tasks(connection, 3)

    async def folded() -> bool:
        return not await connection.fetchval("SELECT count(*) FROM task_deltas")

    await eventually("folding", folded)
    assert (
        await connection.fetchval("SELECT number FROM task_counts WHERE dimension = 'queue'") == 3
    )
    await folding.stop()


async def test_migration_counts_the_existing_tasks(connection: asyncpg.Connection) -> None:
    """The counting statement of the migration gives the same result as the triggers."""
    [deleted, *_] = await add_tasks(connection, 5)
    await connection.execute("UPDATE tasks SET deleted_at = now() WHERE id = $1", deleted)
    await connection.execute("UPDATE queue SET hidden = true WHERE task_id = $1", deleted)
    await fold(connection)
    kept = await connection.fetch("SELECT dimension, value, number FROM task_counts ORDER BY 1, 2")
    script = (VERSIONS / "0002_people_and_plans.sql").read_text()
    counting = script[
        script.index("INSERT INTO task_counts (dimension, value, number)\nSELECT 'priority'") :
    ]
    await connection.execute(f"DELETE FROM task_counts; {counting[: counting.index(';')]}")
    assert kept == await connection.fetch(
        "SELECT dimension, value, number FROM task_counts ORDER BY 1, 2"
    )


async def test_queue_figures_do_not_scan_the_queue(large_database: asyncpg.Connection) -> None:
    """The query reads few rows by index; the plan contains the full count but does not execute it."""
    await fold(large_database)
    plan = await large_database.fetchval(
        f"EXPLAIN (ANALYZE, FORMAT JSON) {statement('figures').replace('$1', '20000')}"
    )
    used = executed_scans(json.loads(plan)[0]["Plan"])
    assert used == {
        "queue_ready",
        "queue_alone",
        "queue_running",
        "queue_blocked",
        "queue_waits",
    }, plan
    assert (await queue_figures(large_database))["ready"] > 0


def executed_scans(plan: dict[str, Any]) -> set[str]:
    """Return the indexes of the queue that a plan used, and `Seq Scan` if it scanned the queue."""
    found = {name for name in (plan.get("Index Name", ""),) if name.startswith("queue_")}
    if (
        plan.get("Relation Name") == "queue"
        and not plan.get("Index Name")
        and plan["Node Type"] == "Seq Scan"
    ):
        found.add("Seq Scan")
    here = found if plan["Actual Loops"] else set[str]()
    return here.union(*(executed_scans(p) for p in plan.get("Plans", [])))
