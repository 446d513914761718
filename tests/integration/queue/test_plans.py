"""Query plans of frequent statements: index scans only, on the right index.

Statistics are taken when the queue is empty, full of waiting rows, and half claimed; then it is
filled further.
"""

import json
import re
from collections.abc import Collection, Iterator
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from task_service.domain.ids import new_id
from task_service.queue.claims import EARLIEST
from task_service.queue.statements import statement
from task_service.store.database import LOOK_UPS, connect, looking_up
from task_service.store.persistent_connection import KeptConnection
from tests.support.service_settings import settings_for
from tests.support.tasks import add_worker

pytestmark = pytest.mark.asyncio
INSERT_ROWS = """
    INSERT INTO queue (
        task_id, queue, priority, run_at, max_attempts, handler, state, worker_id, fence, claimed_at
    )
    SELECT
        gen_random_uuid(), 'default', 2, now() - make_interval(secs => n * 0.001), 5, 'noop',
        CASE WHEN $2::uuid IS NULL THEN 'ready' ELSE 'running' END, $2, 1, now()
    FROM generate_series(1, $1) AS n
"""
INSERT_BLOCKED_ROWS = """
    INSERT INTO queue (
        task_id, queue, priority, run_at, max_attempts, handler, state, limited, limit_key
    )
    SELECT
        gen_random_uuid(), 'default', 2, now() - make_interval(secs => n * 0.001), 5, 'noop',
        'blocked', true, 'key-' || n % $2::integer
    FROM generate_series(1, $1) AS n
"""
TYPES = {
    "claim": "uuid, text[], smallint[], float8[], integer, boolean, integer",
    "finish": "uuid, uuid[], bigint[], text[], text[], text[], text[]",
    "give_back": "uuid, uuid[], bigint[], text[], text[], text[], float8[], boolean[]",
    "list_attempts": "uuid",
    "update_progress": "uuid, uuid[], bigint[], float8[], text[]",
    "release": "uuid, text, boolean, integer, boolean, integer, integer",
    "admit": "integer, integer",
    "block_by_limit": "integer",
}
WORKER_STATEMENTS = ("claim", "finish", "give_back", "list_attempts")
"""Statements of connections on which a worker only claims and reports."""
IDS = "'{{" + ",".join(str(new_id()) for _ in range(100)) + "}}'"  # escaped braces: see VALUES
SAME = "array_fill({}, ARRAY[100])"
TEXTS, FENCES, DELAYS, COUNTS = (
    SAME.format(v) for v in ("''::text", "1::bigint", "0::float8", "true")
)
VALUES = {
    "claim": "'{worker}', '{{default,default}}', '{{0,2}}', '{{0,0}}', 100, false, null",
    "finish": f"'{{worker}}', {IDS}, {FENCES}, {TEXTS}, {TEXTS}, {TEXTS}, {TEXTS}",
    "give_back": f"'{{worker}}', {IDS}, {FENCES}, {TEXTS}, {TEXTS}, {TEXTS}, {DELAYS}, {COUNTS}",
    "list_attempts": "'{worker}'",
    "update_progress": f"'{{worker}}', {IDS}, {FENCES}, {DELAYS}, {TEXTS}",
    "release": "'{worker}', 'crash', true, 1000, true, 2, 3",
    "admit": "100, 500",
    "block_by_limit": "1000",
}
INDEXES = {
    "claim": {"queue_ready", "queue_pkey"},
    "finish": {"queue_pkey"},
    "give_back": {"queue_pkey"},
    "list_attempts": {"queue_running"},
    "update_progress": {"queue_pkey"},
    "release": {"queue_running", "queue_pkey"},
    "admit": {"queue_blocked", "queue_admitted", "queue_admitted_keys", "queue_pkey"},
    "block_by_limit": {
        "queue_ready",
        "queue_alone",
        "queue_running",
        "queue_admitted",
        "queue_admitted_keys",
        "queue_pkey",
    },
}


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", []):
        yield from nodes(child)


async def check_plans(
    connection: asyncpg.Connection, names: Collection[str], worker: UUID, when: str
) -> None:
    for name in names:
        values = VALUES[name]
        text = await connection.fetchval(
            f"EXPLAIN (FORMAT json) EXECUTE {name} ({values.format(worker=worker)})"
        )
        on_queue = [n for n in nodes(json.loads(text)[0]["Plan"]) if _reads_queue(n)]
        assert on_queue, f"{name} does not read the queue?"
        assert "Seq Scan" not in {n["Node Type"] for n in on_queue}, (
            f"{name} reads the whole queue, {when}"
        )
        used = {n["Index Name"] for n in on_queue if "Index Name" in n}
        assert used == INDEXES[name], f"{name} uses {used}, {when}"


@pytest.mark.parametrize("size", [10_000, 100_000, 1_000_000])
@pytest.mark.parametrize(
    ("session", "names"),
    [(LOOK_UPS, WORKER_STATEMENTS), ({}, VALUES)],
    ids=["claims and reports", "all statements"],
)
async def test_frequent_statements_use_indexes_with_any_statistics(
    database: str, session: dict[str, str], names: Collection[str], size: int
) -> None:
    """The statements were prepared and used while the queue was empty."""
    connection = await connect(settings_for(database, database_pooler=False), session)
    worker = await add_worker(connection)
    await connection.execute("ALTER TABLE queue SET (autovacuum_enabled = false)")
    await connection.execute("VACUUM ANALYZE queue")
    for name in names:
        await connection.execute(
            f"PREPARE {name} ({TYPES[name]}) AS {re.sub(r'--.*', '', statement(name))}"
        )
        for _ in range(6):  # after the fifth time PostgreSQL may keep a plan
            await connection.execute(
                f"EXPLAIN EXECUTE {name} ({VALUES[name].format(worker=worker)})"
            )
    await connection.execute(INSERT_ROWS, size // 2, None)
    await check_plans(connection, names, worker, "statistics of an empty table")
    await connection.execute("ANALYZE queue")
    await connection.execute(INSERT_ROWS, size // 2, worker)
    await check_plans(connection, names, worker, "statistics of a table full of waiting rows")
    await connection.execute("ANALYZE queue")
    await check_plans(connection, names, worker, "statistics of a half-claimed table")
    await connection.close()


@pytest.mark.parametrize("pooler", [False, True], ids=["direct", "pooler"])
async def test_claim_reads_only_its_rows_even_if_the_planner_prefers_a_sort(
    database: str, connection: asyncpg.Connection, *, pooler: bool
) -> None:
    """The planner prefers that when it expects at most one row; here index scans are disabled."""
    worker = await add_worker(connection)
    await connection.execute(
        f'ALTER DATABASE "{database.rpartition("/")[2]}" SET enable_indexscan = off'
    )
    await connection.execute(INSERT_ROWS, 20_000, None)
    settings = settings_for(database, use_optional_servers=False, database_pooler=pooler)
    persistent = KeptConnection(lambda: connect(settings, LOOK_UPS))
    acquire = looking_up(settings, persistent.acquire)
    for _ in range(3):
        async with acquire() as claiming:
            values = [worker, ["default"] * 2, [0, 2], [EARLIEST] * 2, 100, True, 1]
            text = await claiming.fetchval(
                f"EXPLAIN (ANALYZE, FORMAT json) {statement('claim')}", *values
            )
        read = [n for n in nodes(json.loads(text)[0]["Plan"]) if _reads_queue(n)]
        assert max(n["Actual Rows"] * n["Actual Loops"] for n in read) <= 100, text
    persistent.close()


@pytest.mark.parametrize("keys", [1, 50])
@pytest.mark.parametrize("statistics_of", [0, 1_000, 20_000])
async def test_admission_reads_only_the_rows_it_admits(
    connection: asyncpg.Connection, keys: int, statistics_of: int
) -> None:
    """A plan that scans the waiting rows would report how many rows it removed."""
    await connection.execute("ALTER TABLE queue SET (autovacuum_enabled = false)")
    await connection.execute(INSERT_BLOCKED_ROWS, statistics_of, keys)
    await connection.execute("VACUUM ANALYZE queue")
    await connection.execute(INSERT_BLOCKED_ROWS, 20_000, keys)
    admit = re.sub(r"--.*", "", statement("admit")).replace("$1", "100").replace("$2", "500")
    for _ in range(3):
        text = await connection.fetchval(f"EXPLAIN (ANALYZE, FORMAT json) {admit}")
        read = [n for n in nodes(json.loads(text)[0]["Plan"]) if _reads_queue(n)]
        removed = sum(n.get("Rows Removed by Filter", 0) * n["Actual Loops"] for n in read)
        assert removed < 2_000, text
        assert max(n["Actual Rows"] * n["Actual Loops"] for n in read) < 5_000, text


def _reads_queue(node: dict[str, Any]) -> bool:
    if node["Node Type"] == "ModifyTable":
        return False
    return node.get("Relation Name") == "queue" or str(node.get("Index Name", "")).startswith(
        "queue_"
    )


INSERT_TASKS = """
    WITH new AS (
        INSERT INTO tasks (id, title, handler)
        SELECT new_task_id(), 'a task', 'noop' FROM generate_series(1, 20000)
        RETURNING id
    ), ended AS (
        INSERT INTO runs (task_id, fence, attempt, worker_id, claimed_at, outcome, reason, final)
        SELECT id, n, 1, new_task_id(), now(), 'completed', 'success', false
        FROM new, generate_series(1, 2) AS n
    ), discussed AS (
        INSERT INTO conversations (id, task_id, body) SELECT new_task_id(), id, '{}' FROM new
    ), waiting AS (
        INSERT INTO queue (task_id, queue, priority, run_at, max_attempts, handler)
        SELECT id, 'default', 2, now(), 5, 'noop' FROM new
    )
    SELECT id FROM new LIMIT 1
"""


@pytest.mark.parametrize("statistics", ["empty tables", "full tables"])
async def test_task_is_read_by_index_with_a_plan_cached_for_empty_tables(
    database: str, statistics: str
) -> None:
    connection = await connect(settings_for(database))
    await connection.execute("ANALYZE")
    read = "EXPLAIN (ANALYZE, BUFFERS, FORMAT json) SELECT * FROM read_task($1)"
    for _ in range(10):
        await connection.fetchval(read, new_id())
    task = await connection.fetchval(INSERT_TASKS)
    if statistics == "full tables":
        await connection.execute("ANALYZE")
    for _ in range(10):
        plan = json.loads(await connection.fetchval(read, task))[0]["Plan"]
    await connection.close()
    assert plan["Actual Rows"] == 1
    assert plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] < 60, (
        "it reads more than the rows of one task"
    )
