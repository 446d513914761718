"""Tasks that somebody enters in a transaction of their own, through every kind of connection."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import psycopg2  # type: ignore[import-untyped]
import pytest
from sqlalchemy import Engine, create_engine
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from task_service.domain.ids import new_id
from task_service.enqueue import CHUNK, enqueue, enqueue_async, enqueue_many, enqueue_many_async
from task_service.queue.statements import statement
from task_service.worker.handlers import Context, handler
from tests.integration.worker.conftest import StartWorker
from tests.support.tasks import statuses
from tests.support.waiting import eventually

pytestmark = pytest.mark.asyncio
OPTIONS: dict[str, Any] = {
    "title": " Write to Ada ", "queue": "mail", "priority": "High", "max_attempts": 3, "timeout_seconds": 60,
    "tags": ["a", "B", " b "], "created_by": "shop", "wake": False, "run_at": datetime(2040, 1, 2, tzinfo=UTC),
}  # fmt: skip
PAYLOAD = {"order": 7, "name": "Zoë ☃", "lines": [1.5, None, "%s :x $1"]}


class Way:
    """One kind of connection: enter a task in a transaction that is then committed or rolled back."""

    def __init__(self, name: str, database: str) -> None:
        self.name, self.database = name, database
        self.function: Any = None
        self.function_async: Any = None
        self.sync: Engine = create_engine(
            database.replace("postgresql://", "postgresql+psycopg2://")
        )
        self.other: AsyncEngine = create_async_engine(
            database.replace("postgresql://", "postgresql+asyncpg://")
        )

    async def enter(self, *arguments: Any, commits: bool = True, **options: Any) -> UUID:
        """Enter a task, then end the transaction."""
        self.function, self.function_async = enqueue, enqueue_async
        task: UUID = await getattr(self, f"_{self.name}")(arguments, options, commits=commits)
        return task

    async def enter_many(self, *arguments: Any, commits: bool = True, **options: Any) -> list[UUID]:
        """Enter tasks, then end the transaction."""
        self.function, self.function_async = enqueue_many, enqueue_many_async
        tasks: list[UUID] = await getattr(self, f"_{self.name}")(
            arguments, options, commits=commits
        )
        return tasks

    async def _asyncpg(self, arguments: Any, options: Any, *, commits: bool) -> Any:
        connection = await asyncpg.connect(self.database)
        transaction = connection.transaction()
        await transaction.start()
        try:
            task = await self.function_async(connection, *arguments, **options)
            await (transaction.commit() if commits else transaction.rollback())
            return task
        finally:
            await connection.close()

    async def _psycopg2(self, arguments: Any, options: Any, *, commits: bool) -> Any:
        connection = psycopg2.connect(self.database)
        try:
            task = self.function(connection, *arguments, **options)
            connection.commit() if commits else connection.rollback()
            return task
        finally:
            connection.close()

    async def _session(self, arguments: Any, options: Any, *, commits: bool) -> Any:
        with Session(self.sync) as session:
            task = self.function(session, *arguments, **options)
            session.commit() if commits else session.rollback()
        self.sync.dispose()
        return task

    async def _connection(self, arguments: Any, options: Any, *, commits: bool) -> Any:
        with self.sync.connect() as connection:
            task = self.function(connection, *arguments, **options)
            connection.commit() if commits else connection.rollback()
        self.sync.dispose()
        return task

    async def _async_session(self, arguments: Any, options: Any, *, commits: bool) -> Any:
        async with AsyncSession(self.other) as session:
            task = await self.function_async(session, *arguments, **options)
            await (session.commit() if commits else session.rollback())
        await self.other.dispose()
        return task


@pytest.fixture(params=["asyncpg", "psycopg2", "session", "connection", "async_session"])
def way(request: pytest.FixtureRequest, database: str) -> Way:
    return Way(request.param, database)


async def test_a_task_is_there_with_its_transaction_or_not_at_all(
    way: Way, connection: asyncpg.Connection
) -> None:
    gone = await way.enter("mail", PAYLOAD, commits=False)
    task = await way.enter("mail", PAYLOAD, **OPTIONS)
    assert gone != task
    for table in ("tasks", "queue", "task_history"):
        assert await connection.fetchval(f"SELECT count(*) FROM {table}") == 1
    row = await connection.fetchrow("SELECT * FROM task_view WHERE id = $1", task)
    assert row is not None
    told = {
        name: row[name]
        for name in ("title", "queue", "priority", "max_attempts", "timeout_seconds", "created_by")
    }
    assert told == {
        "title": "Write to Ada", "queue": "mail", "priority": 1, "max_attempts": 3, "timeout_seconds": 60,
        "created_by": "shop",
    }  # fmt: skip
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


async def test_many_are_there_together_or_not_at_all(
    way: Way, connection: asyncpg.Connection
) -> None:
    payloads = [PAYLOAD, None, "text", 7, []]
    assert len(await way.enter_many("mail", payloads, commits=False)) == 5
    assert await way.enter_many("mail", iter([])) == []
    tasks = await way.enter_many("mail", payloads, **OPTIONS)
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


async def test_many_more_than_one_call_takes_are_claimed_in_their_order(
    connection: asyncpg.Connection,
) -> None:
    number = CHUNK + 5
    async with connection.transaction():
        tasks = await enqueue_many_async(connection, "mail", range(number))
    waiting = await connection.fetch("SELECT task_id FROM queue ORDER BY priority, run_at")
    assert [row["task_id"] for row in waiting] == tasks
    assert tasks[:CHUNK] == sorted(tasks[:CHUNK])  # so lists show them in their order, too
    payloads = await connection.fetch("SELECT id, payload::text FROM tasks")
    assert {row["id"]: row["payload"] for row in payloads} == {
        task: str(n) for n, task in enumerate(tasks)
    }


async def test_workers_are_notified_of_many_once_and_not_when_there_are_none_or_it_is_not_wanted(
    database: str, connection: asyncpg.Connection
) -> None:
    heard: list[object] = []
    listener = await asyncpg.connect(database)
    await listener.add_listener("task_service_queue", lambda *given: heard.append(given[-1]))
    await enqueue_many_async(connection, "mail", [1, 2], queue="silent", wake=False)
    await connection.fetchval("SELECT enqueue_tasks('mail', '{}', queue => 'empty')")
    await enqueue_many_async(connection, "mail", [1, 2], queue="mail")

    async def notified() -> bool:
        return heard != []

    await eventually("the notification", notified)
    await listener.close()
    assert heard == ["mail"]  # they come in the order of their commits


async def test_a_driver_with_an_encoder_of_its_own_for_json_enters_the_same(
    connection: asyncpg.Connection,
) -> None:
    await connection.set_type_codec(
        "jsonb", encoder=json.dumps, decoder=json.loads, schema="pg_catalog"
    )
    one = await enqueue_async(connection, "mail", PAYLOAD)
    [other] = await enqueue_many_async(connection, "mail", [PAYLOAD])
    for task in (one, other):
        assert await connection.fetchval("SELECT payload FROM tasks WHERE id = $1", task) == PAYLOAD


async def test_a_worker_is_woken_and_runs_it(
    way: Way, start_worker: StartWorker, connection: asyncpg.Connection
) -> None:
    seen: list[Any] = []

    @handler("mail")
    async def mail(context: Context) -> str:
        seen.append(context.payload)
        return "sent"

    await start_worker(mail)
    task = await way.enter("mail", PAYLOAD)

    async def done() -> bool:
        return await statuses(connection, [task]) == ["completed"]

    await eventually("the run", done)
    assert seen == [PAYLOAD]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("queue", "no name!"), ("queue", None), ("title", " "), ("title", "x" * 201), ("priority", "soon"),
        ("max_attempts", 0), ("max_attempts", 101), ("timeout_seconds", 0), ("tags", ["x"] * 11), ("tags", ["x" * 51]),
        ("tags", [None]), ("created_by", "x" * 101), ("handler", ""), ("handler", "ä"), ("payload", "x" * 262_144),
        ("unique_key", "no key"), ("unique_seconds", 60), ("needs", [new_id()]), ("needs", [new_id()] * 101),
        ("when_failed", "wait"),
    ],
)  # fmt: skip
async def test_a_bad_value_is_named(connection: asyncpg.Connection, field: str, value: Any) -> None:
    given = {"handler": "mail", field: value}
    with pytest.raises(asyncpg.InvalidParameterValueError, match=f"^{field}: "):
        await enqueue_async(connection, **given)
    if not field.startswith("unique"):
        given["payloads"] = [None, given.pop("payload", None), 1]
        with pytest.raises(asyncpg.InvalidParameterValueError, match=f"^{field}: "):
            await enqueue_many_async(connection, **given)
    assert await connection.fetchval("SELECT count(*) FROM tasks") == 0


async def test_an_unknown_option_is_refused(connection: asyncpg.Connection) -> None:
    with pytest.raises(TypeError, match="no option unique_key"):
        await enqueue_many_async(connection, "mail", [], unique_key="order-7")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="no option colour"):
        await enqueue_async(connection, "mail", colour="red")  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        ("payload", float("nan"), "JSON"),
        ("payload", {1}, "set"),
        ("payload", {"a": ["b\x00"]}, "NUL"),
        ("payload", {"\ud800": 1}, "surrogate"),
        ("title", "a\x00b", "NUL"),
        ("tags", ["a", "\ud800"], "surrogate"),
    ],
)
async def test_what_the_server_cannot_keep_is_named_before_anything_is_sent(
    way: Way, connection: asyncpg.Connection, field: str, value: Any, why: str
) -> None:
    given = {"payload": None} | {field: value}
    with pytest.raises(ValueError, match=f"^{field}: .*{why}"):
        await way.enter("mail", **given)
    given["payloads"] = [1, given.pop("payload")]
    with pytest.raises(ValueError, match=f"^{field}: .*{why}"):
        await way.enter_many("mail", **given)
    assert await connection.fetchval("SELECT count(*) FROM tasks") == 0


async def test_what_looks_like_a_nul_is_kept(connection: asyncpg.Connection) -> None:
    payload = {"path": "c:\\u0000", "name": "Zoë \u2603"}
    task = await enqueue_async(connection, "mail", payload)
    assert (
        json.loads(await connection.fetchval("SELECT payload FROM tasks WHERE id = $1", task))
        == payload
    )


async def test_ids_are_of_their_time_and_of_version_seven(connection: asyncpg.Connection) -> None:
    before = datetime.now(UTC)
    ids = [await enqueue_async(connection, "mail") for _ in range(50)]
    assert len(set(ids)) == 50
    for task in ids:
        assert (task.version, task.variant) == (7, "specified in RFC 4122")
        made = datetime.fromtimestamp((task.int >> 80) / 1000, UTC)
        assert abs(made - before) < timedelta(minutes=1)


async def test_it_is_counted_and_claimed_like_any_other(connection: asyncpg.Connection) -> None:
    await enqueue_async(connection, "mail", queue="mail")
    figures = await connection.fetch(statement("figures"), 1000)
    assert [(row["name"], row["ready"]) for row in figures] == [("mail", 1)]
    counted = "SELECT sum(number) FROM task_deltas WHERE dimension = 'priority' AND value = '2'"
    assert await connection.fetchval(counted) == 1


async def test_a_task_runs_after_those_that_it_needs(
    way: Way, start_worker: StartWorker, connection: asyncpg.Connection
) -> None:
    seen: list[Any] = []

    @handler("render")
    async def render(context: Context) -> None:
        seen.append(context.payload)

    @handler("bind")
    async def bind(_: Context) -> None:
        seen.append("bound")

    parts = await way.enter_many("render", [1, 2, 3])
    book = await way.enter("bind", needs=[*parts, parts[0]])
    assert await connection.fetchval(
        "SELECT waits_for FROM task_view WHERE id = $1", book
    ) == sorted(parts)
    await start_worker(render, bind)

    async def done() -> bool:
        return set(await statuses(connection, [book, *parts])) == {"completed"}

    await eventually("all of them", done)
    assert seen[-1] == "bound"
    assert await connection.fetchval("SELECT count(*) FROM dependencies") == 0


async def test_one_need_of_the_same_transaction_or_of_before_decides_over_many(
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

    async def noticed() -> bool:
        return await statuses(connection, late) == ["completed", "cancelled"]

    await eventually("what had ended before", noticed)


async def test_what_is_no_id_is_named(connection: asyncpg.Connection) -> None:
    for needs in (["seven"], [None], "abc"):
        with pytest.raises(ValueError, match=r"^needs: "):
            await enqueue_async(connection, "mail", needs=needs)  # type: ignore[arg-type]


async def test_a_key_that_is_held_gives_the_present_task(
    way: Way, connection: asyncpg.Connection
) -> None:
    gone = await way.enter("mail", unique_key="order-7", commits=False)
    task = await way.enter("mail", unique_key="order-7", unique_seconds=60)
    assert task != gone
    assert await way.enter("other", PAYLOAD, unique_key="order-7") == task
    for table in ("tasks", "queue", "task_history"):
        assert await connection.fetchval(f"SELECT count(*) FROM {table}") == 1
    await connection.execute("DELETE FROM queue")
    await connection.execute("UPDATE tasks SET status = 'completed'")
    assert await way.enter("mail", unique_key="order-7") == task
    await connection.execute("UPDATE unique_keys SET expires_at = now()")
    assert await way.enter("mail", unique_key="order-7") != task


async def test_a_period_has_bounds(connection: asyncpg.Connection) -> None:
    for seconds in (0, 31_536_001):
        with pytest.raises(asyncpg.InvalidParameterValueError, match=r"^unique_seconds: "):
            await enqueue_async(connection, "mail", unique_key="k", unique_seconds=seconds)


async def test_a_role_needs_no_more_than_to_insert(connection: asyncpg.Connection) -> None:
    """The grants that the handbook names."""
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
