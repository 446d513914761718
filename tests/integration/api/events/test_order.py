"""The order of events: every event arrives exactly once."""

import asyncio
import contextlib
import random
import time
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from fastapi import FastAPI

from task_service.services.events import broadcaster, streams
from task_service.settings import Settings
from task_service.store import events as store
from task_service.telemetry.metrics import EVENT_LAG_SECONDS, EVENT_STREAMS
from tests.support.event_streams import (
    EVENTS,
    IDS_IN_ORDER,
    INSERT_CHANGE,
    add_task,
    holds,
    read_ids,
)
from tests.support.http_servers import api_instance
from tests.support.sse import open_stream
from tests.support.waiting import eventually

pytestmark = pytest.mark.asyncio


def lag_seconds() -> float:
    """Return the value of the lag metric."""
    value: float = EVENT_LAG_SECONDS._value.get()
    return value


async def test_events_wait_for_earlier_uncommitted_transactions(
    url: str, connection: asyncpg.Connection, database: str
) -> None:
    task_id = await add_task(connection)
    first, second = await asyncpg.connect(database), await asyncpg.connect(database)
    async with open_stream(url + EVENTS) as stream:
        slow = first.transaction()
        await slow.start()
        await first.execute(INSERT_CHANGE, task_id, "first")
        await second.execute(INSERT_CHANGE, task_id, "second")
        begun = time.monotonic()

        async def is_delayed() -> bool:
            return lag_seconds() > 0.5

        await eventually("a lag", is_delayed)
        assert stream.messages == []
        await slow.commit()
        await stream.wait_for_count(2)
        assert time.monotonic() - begun < 10
        assert [m.data["by"] for m in stream.messages] == ["first", "second"]
        assert [m.id for m in stream.messages] == [
            r["place"] for r in await connection.fetch(IDS_IN_ORDER)
        ]

        async def is_current() -> bool:
            return lag_seconds() == 0

        await eventually("no lag", is_current)
    for one in (first, second):
        await one.close()


async def test_repeated_reconnects_under_load_miss_and_repeat_nothing(
    url: str, settings: Settings, connection: asyncpg.Connection, database: str
) -> None:
    task_id, chance = await add_task(connection), random.Random(7)
    writers = [
        asyncio.create_task(write_randomly(database, task_id, f"w{n}", 60)) for n in range(8)
    ]
    received: list[str] = []
    last = "0"
    async with api_instance(settings) as other, open_stream(url + EVENTS, last) as steady:
        while not all(w.done() for w in writers):
            async with open_stream(chance.choice((url, other)) + EVENTS, last) as stream:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.5):
                        await stream.wait_for_count(chance.randrange(1, 40))
            received += [m.id for m in stream.messages]
            last = stream.last_id
        await asyncio.gather(*writers)
        expected = [r["place"] for r in await connection.fetch(IDS_IN_ORDER)]
        async with open_stream(other + EVENTS, last) as stream:
            await stream.wait_for_count(len(expected) - len(received))
        received += [m.id for m in stream.messages]
        await steady.wait_for_count(len(expected))
    assert len(expected) > 300
    assert received == expected
    assert [m.id for m in steady.messages] == expected


@pytest.mark.parametrize("other_leaves", [True, False], ids=["no other stream", "another stream"])
async def test_events_during_the_first_page_are_not_missed(
    app: FastAPI,
    url: str,
    connection: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
    other_leaves: bool,
) -> None:
    """The shared reader is ahead of the new stream and polls while the stream joins it."""
    read, gates, held = store.read_events, dict[str, asyncio.Event](), set[str]()

    async def gated(*arguments: Any) -> store.Page:
        page, caller = await read(*arguments), "stream" if len(arguments) > 4 else "reader"
        if caller in gates:
            held.add(caller)
            await gates[caller].wait()
        return page

    monkeypatch.setattr(broadcaster, "read_events", gated)
    task_id = await add_task(connection)
    async with contextlib.AsyncExitStack() as others:
        other = await others.enter_async_context(open_stream(url + EVENTS))
        gates["stream"] = asyncio.Event()
        joined = asyncio.create_task(read_ids(url + EVENTS, other.last_id, 3))
        await eventually("the first page", lambda: holds("stream" in held))
        await connection.execute(INSERT_CHANGE, task_id, "during the first page")
        await other.wait_for_count(1)
        if other_leaves:
            gates["reader"] = asyncio.Event()
            await eventually("a poll", lambda: holds("reader" in held))
            await others.aclose()
            await eventually(
                "the other stream's end", lambda: holds(EVENT_STREAMS._value.get() == 1)
            )
        await connection.execute(INSERT_CHANGE, task_id, "after the poll")
        gates.pop("stream").set()
        await eventually("the start of the live stream", lambda: holds(app.state.events._live))
        for gate in gates.values():
            gate.set()
        gates.clear()
        await connection.execute(INSERT_CHANGE, task_id, "last")
        assert await joined == [r["place"] for r in await connection.fetch(IDS_IN_ORDER)]


async def test_stream_that_falls_behind_reads_from_the_database(
    url: str, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "WAITING_MAX", 5)
    monkeypatch.setattr(broadcaster, "PAGE", 7)
    task_id = await add_task(connection)
    many = (
        "INSERT INTO task_history (task_id, new_status)"
        " SELECT $1, 'pending' FROM generate_series(1, 400)"
    )
    async with open_stream(url + EVENTS) as stream:
        for _ in range(3):
            await connection.execute(many, task_id)
        await stream.wait_for_count(1200)
        assert [m.id for m in stream.messages] == [
            r["place"] for r in await connection.fetch(IDS_IN_ORDER)
        ]


async def test_runs_of_one_transaction_have_different_ids(
    url: str, connection: asyncpg.Connection
) -> None:
    await connection.execute(
        "WITH new AS (INSERT INTO tasks (id, title, handler) SELECT gen_random_uuid(), 'a', 'noop'"
        " FROM generate_series(1, 30) RETURNING id)"
        " INSERT INTO runs (task_id, fence, attempt, outcome, final)"
        " SELECT id, f, f, CASE f WHEN 1 THEN 'failed' ELSE 'completed' END, f = 2"
        " FROM new, generate_series(1, 2) AS f"
    )
    async with open_stream(url + EVENTS, "0") as stream:
        await stream.wait_for_count(60)
    assert len({m.id for m in stream.messages}) == 60
    for at in (0, 13, 58):
        async with open_stream(url + EVENTS, stream.messages[at].id) as rest:
            await rest.wait_for_count(59 - at)
        assert rest.messages == stream.messages[at + 1 :]


async def test_events_are_read_by_index(large_database: asyncpg.Connection) -> None:
    await large_database.execute(
        "INSERT INTO task_history (task_id, new_status) SELECT id, 'pending' FROM tasks"
    )
    await large_database.execute("ANALYZE task_history, runs, tasks")
    last = await large_database.fetchval("SELECT max(transaction_id)::text FROM task_history")
    await large_database.execute("SET plan_cache_mode = force_custom_plan")
    arguments = [last, 10, store.NONE, -1, str(int(last) + 1), 500]
    for text, values in (
        (store.HORIZON, []),
        (store.OF_ALL, arguments),
        (store.OF_TASK, [*arguments, [uuid4()]]),
    ):
        plan = "\n".join(r[0] for r in await large_database.fetch(f"EXPLAIN {text}", *values))
        assert "Seq Scan on task_history" not in plan, plan
        assert "Seq Scan on runs" not in plan, plan
        assert "Seq Scan on tasks" not in plan, plan


async def write_randomly(database: str, task_id: UUID, name: str, transactions: int) -> None:
    """Run transactions of one to three changes that stay open for a while or are rolled back."""
    chance, connection = random.Random(name), await asyncpg.connect(database)
    for number in range(transactions):
        transaction = connection.transaction()
        await transaction.start()
        for _ in range(chance.randrange(1, 4)):
            await connection.execute(INSERT_CHANGE, task_id, f"{name} {number}")
            await asyncio.sleep(chance.random() * 0.02)
        await (transaction.rollback() if chance.random() < 0.1 else transaction.commit())
    await connection.close()
