"""`enqueue` in the caller's transaction, through every kind of connection."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from task_service.enqueue import CHUNK, enqueue_async, enqueue_many_async
from task_service.queue.statements import statement
from task_service.worker.handlers import Context, handler
from tests.support.enqueue_clients import Client
from tests.support.tasks import statuses
from tests.support.waiting import eventually
from tests.support.worker_runs import StartWorker

pytestmark = pytest.mark.asyncio
OPTIONS: dict[str, Any] = {
    "title": " Write to Ada ",
    "queue": "mail",
    "priority": "High",
    "max_attempts": 3,
    "timeout_seconds": 60,
    "tags": ["a", "B", " b "],
    "created_by": "shop",
    "wake": False,
    "run_at": datetime(2040, 1, 2, tzinfo=UTC),
}
PAYLOAD = {"order": 7, "name": "Zoë ☃", "lines": [1.5, None, "%s :x $1"]}


async def test_task_exists_only_if_the_transaction_commits(
    client: Client, connection: asyncpg.Connection
) -> None:
    rolled_back = await client.enqueue("mail", PAYLOAD, commit=False)
    task = await client.enqueue("mail", PAYLOAD, **OPTIONS)
    assert rolled_back != task
    for table in ("tasks", "queue", "task_history"):
        assert await connection.fetchval(f"SELECT count(*) FROM {table}") == 1
    row = await connection.fetchrow("SELECT * FROM task_view WHERE id = $1", task)
    assert row is not None
    expected = {
        "title": "Write to Ada",
        "queue": "mail",
        "priority": 1,
        "max_attempts": 3,
        "timeout_seconds": 60,
        "created_by": "shop",
    }
    assert {name: row[name] for name in expected} == expected
    assert (row["status"], row["tags"], row["run_at"]) == (
        "scheduled",
        ["a", "B"],
        OPTIONS["run_at"],
    )
    assert await connection.fetchval(
        "SELECT payload = $2::jsonb FROM tasks WHERE id = $1", task, json.dumps(PAYLOAD)
    )
    [line] = await connection.fetch(
        "SELECT new_status, changed_by FROM task_history WHERE task_id = $1", task
    )
    assert tuple(line) == ("scheduled", "shop")


async def test_many_tasks_exist_only_if_the_transaction_commits(
    client: Client, connection: asyncpg.Connection
) -> None:
    payloads: list[Any] = [PAYLOAD, None, "text", 7, []]
    assert len(await client.enqueue_many("mail", payloads, commit=False)) == 5
    assert await client.enqueue_many("mail", iter([])) == []
    tasks = await client.enqueue_many("mail", payloads, **OPTIONS)
    for table in ("tasks", "queue", "task_history"):
        assert await connection.fetchval(f"SELECT count(*) FROM {table}") == 5
    rows = {row["id"]: row for row in await connection.fetch("SELECT * FROM task_view")}
    assert [
        None if (text := rows[t]["payload"]) is None else json.loads(text) for t in tasks
    ] == payloads
    assert {
        (r["title"], r["queue"], r["priority"], r["created_by"], r["status"]) for r in rows.values()
    } == {("Write to Ada", "mail", 1, "shop", "scheduled")}
    assert all(row["tags"] == ["a", "B"] for row in rows.values())
    assert (
        await connection.fetchval("SELECT sum(number) FROM task_deltas WHERE dimension = 'queue'")
        == 5
    )


async def test_tasks_of_several_chunks_keep_their_order(
    connection: asyncpg.Connection,
) -> None:
    number = CHUNK + 5
    async with connection.transaction():
        tasks = await enqueue_many_async(connection, "mail", range(number))
    waiting = await connection.fetch("SELECT task_id FROM queue ORDER BY priority, run_at")
    assert [row["task_id"] for row in waiting] == tasks
    assert tasks[:CHUNK] == sorted(tasks[:CHUNK])  # so that lists show them in the same order
    payloads = await connection.fetch("SELECT id, payload::text FROM tasks")
    assert {row["id"]: row["payload"] for row in payloads} == {
        task: str(n) for n, task in enumerate(tasks)
    }


async def test_enqueue_many_notifies_once_and_only_if_there_are_tasks_to_wake_for(
    database: str, connection: asyncpg.Connection
) -> None:
    channels: list[object] = []
    listener = await asyncpg.connect(database)
    await listener.add_listener("task_service_queue", lambda *values: channels.append(values[-1]))
    await enqueue_many_async(connection, "mail", [1, 2], queue="silent", wake=False)
    await connection.fetchval("SELECT enqueue_tasks('mail', '{}', queue => 'empty')")
    await enqueue_many_async(connection, "mail", [1, 2], queue="mail")

    async def notified() -> bool:
        return channels != []

    await eventually("the notification", notified)
    await listener.close()
    assert channels == ["mail"]  # notifications arrive in commit order


async def test_custom_json_codec_of_the_driver_stores_the_same_payload(
    connection: asyncpg.Connection,
) -> None:
    await connection.set_type_codec(
        "jsonb", encoder=json.dumps, decoder=json.loads, schema="pg_catalog"
    )
    one = await enqueue_async(connection, "mail", PAYLOAD)
    [other] = await enqueue_many_async(connection, "mail", [PAYLOAD])
    for task in (one, other):
        assert await connection.fetchval("SELECT payload FROM tasks WHERE id = $1", task) == PAYLOAD


async def test_enqueued_task_wakes_a_worker_that_runs_it(
    client: Client, start_worker: StartWorker, connection: asyncpg.Connection
) -> None:
    seen: list[Any] = []

    @handler("mail")
    async def mail(context: Context) -> str:
        seen.append(context.payload)
        return "sent"

    await start_worker(mail)
    task = await client.enqueue("mail", PAYLOAD)

    async def done() -> bool:
        return await statuses(connection, [task]) == ["completed"]

    await eventually("the run", done)
    assert seen == [PAYLOAD]


async def test_ids_are_current_version_7_uuids(connection: asyncpg.Connection) -> None:
    before = datetime.now(UTC)
    ids = [await enqueue_async(connection, "mail") for _ in range(50)]
    assert len(set(ids)) == 50
    for task in ids:
        assert (task.version, task.variant) == (7, "specified in RFC 4122")
        created = datetime.fromtimestamp((task.int >> 80) / 1000, UTC)
        assert abs(created - before) < timedelta(minutes=1)


async def test_enqueued_task_is_counted_like_any_other(connection: asyncpg.Connection) -> None:
    await enqueue_async(connection, "mail", queue="mail")
    figures = await connection.fetch(statement("figures"), 1000)
    assert [(row["name"], row["ready"]) for row in figures] == [("mail", 1)]
    counted = "SELECT sum(number) FROM task_deltas WHERE dimension = 'priority' AND value = '2'"
    assert await connection.fetchval(counted) == 1


async def test_task_runs_after_its_needs(
    client: Client, start_worker: StartWorker, connection: asyncpg.Connection
) -> None:
    seen: list[Any] = []

    @handler("render")
    async def render(context: Context) -> None:
        seen.append(context.payload)

    @handler("bind")
    async def bind(_: Context) -> None:
        seen.append("bound")

    parts = await client.enqueue_many("render", [1, 2, 3])
    book = await client.enqueue("bind", needs=[*parts, parts[0]])
    assert await connection.fetchval(
        "SELECT waits_for FROM task_view WHERE id = $1", book
    ) == sorted(parts)
    await start_worker(render, bind)

    async def done() -> bool:
        return set(await statuses(connection, [book, *parts])) == {"completed"}

    await eventually("all of them", done)
    assert seen[-1] == "bound"
    assert await connection.fetchval("SELECT count(*) FROM dependencies") == 0


async def test_one_failed_need_decides_over_many_dependents(
    start_worker: StartWorker, connection: asyncpg.Connection
) -> None:
    @handler("fails")
    async def fails(_: Context) -> None:
        raise ValueError("no")

    @handler("after")
    async def after(_: Context) -> None: ...

    async with connection.transaction():
        need = await enqueue_async(connection, "fails", max_attempts=1)
        cancelled = await enqueue_many_async(connection, "after", [1, 2], needs=[need])
        run = await enqueue_many_async(connection, "after", [3, 4], needs=[need], when_failed="run")
    await start_worker(fails, after)
    ends = ["failed", "cancelled", "cancelled", "completed", "completed"]

    async def ended() -> bool:
        return await statuses(connection, [need, *cancelled, *run]) == ends

    await eventually("their ends", ended)
    late = [
        await enqueue_async(connection, "after", needs=[run[0]]),
        await enqueue_async(connection, "after", needs=[run[0], need]),
    ]

    async def late_tasks_ended() -> bool:
        return await statuses(connection, late) == ["completed", "cancelled"]

    await eventually("the ends of tasks with ended needs", late_tasks_ended)


async def test_reserved_unique_key_returns_the_existing_task(
    client: Client, connection: asyncpg.Connection
) -> None:
    rolled_back = await client.enqueue("mail", unique_key="order-7", commit=False)
    task = await client.enqueue("mail", unique_key="order-7", unique_seconds=60)
    assert task != rolled_back
    assert await client.enqueue("other", PAYLOAD, unique_key="order-7") == task
    for table in ("tasks", "queue", "task_history"):
        assert await connection.fetchval(f"SELECT count(*) FROM {table}") == 1
    await connection.execute("DELETE FROM queue")
    await connection.execute("UPDATE tasks SET status = 'completed'")
    assert await client.enqueue("mail", unique_key="order-7") == task
    await connection.execute("UPDATE unique_keys SET expires_at = now()")
    assert await client.enqueue("mail", unique_key="order-7") != task


async def test_role_with_the_documented_grants_can_enqueue(connection: asyncpg.Connection) -> None:
    """The grants are those of the documentation."""
    await connection.execute("DROP ROLE IF EXISTS shop")
    await connection.execute("CREATE ROLE shop")
    await connection.execute("GRANT INSERT ON tasks, task_history, queue, task_deltas TO shop")
    async with connection.transaction():
        await connection.execute("SET LOCAL ROLE shop")
        await enqueue_async(connection, "mail", {"order": 7})
        await enqueue_many_async(connection, "mail", [{"order": 8}])
    assert [
        row["created_by"] for row in await connection.fetch("SELECT created_by FROM tasks")
    ] == ["shop"] * 2
    await connection.execute("GRANT SELECT, INSERT, UPDATE ON unique_keys TO shop")
    await connection.execute("GRANT SELECT ON unique_held TO shop")
    async with connection.transaction():
        await connection.execute("SET LOCAL ROLE shop")
        tasks = [await enqueue_async(connection, "mail", unique_key="order-7") for _ in range(2)]
    assert tasks[0] == tasks[1]
    await connection.execute("GRANT SELECT, UPDATE ON queue, tasks TO shop")
    await connection.execute("GRANT INSERT ON dependencies, ended_needs TO shop")
    async with connection.transaction():
        await connection.execute("SET LOCAL ROLE shop")
        await enqueue_many_async(connection, "mail", [1, 2], needs=[tasks[0]])
    await connection.execute("DROP OWNED BY shop")
    await connection.execute("DROP ROLE shop")
