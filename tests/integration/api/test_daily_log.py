"""The daily log and its loader: one entry per task and day, even with concurrent loaders."""

import asyncio
import sys
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import asyncpg
import httpx
import pytest
from fastapi import FastAPI

from task_service.services import daily_log as service
from task_service.services.transactions import TransactionManager
from task_service.settings import Settings
from task_service.store import daily_log as store
from tests.support.problems import check_field_error, check_problem
from tests.support.service_settings import settings_for

pytestmark = pytest.mark.asyncio
PATH = "/api/v1/daily-log"
LOADER = """
import asyncio, sys
from task_service.queue.wakeups import Wakeups
from task_service.services import daily_log
from task_service.services.transactions import TransactionManager
from task_service.settings import load_settings
from task_service.store.database import create_engine

async def main():
    settings = load_settings(database_url=sys.argv[1], heartbeat_seconds=1)
    engine = create_engine(settings)
    async with engine.connect():
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
    for load in await daily_log.catch_up(TransactionManager(settings, engine, Wakeups(None))):
        print("added", load.added)
    await engine.dispose()

asyncio.run(main())
"""


async def create(client: httpx.AsyncClient, **fields: Any) -> str:
    response = await client.post("/api/v1/tasks", json={"title": "a task"} | fields)
    assert response.status_code == 201, response.text
    return str(response.json()["id"])


async def run(client: httpx.AsyncClient, day: date | str | None = None) -> dict[str, Any]:
    response = await client.post(f"{PATH}:run", json={"date": str(day)} if day else None)
    assert response.status_code == 200, response.text
    loaded: dict[str, Any] = response.json()
    return loaded


async def entries(client: httpx.AsyncClient, **query: Any) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = (await client.get(PATH, params=query)).json()["items"]
    return items


def transactions_of(app: FastAPI) -> TransactionManager:
    transactions: TransactionManager = app.state.transactions
    return transactions


async def test_active_tasks_are_copied_once(client: httpx.AsyncClient) -> None:
    ids = [
        await create(client, title="manual", assigned_to="ada"),
        await create(client, title="started", status="in_progress"),
        await create(client, title="queued", handler="noop"),
        await create(client, title="later", handler="noop", run_at="2100-01-01T00:00:00Z"),
    ]
    await create(client, title="done", status="completed")
    deleted = await create(client, title="deleted")
    await client.delete(f"/api/v1/tasks/{deleted}")
    today = datetime.now(UTC).date()
    assert await run(client) == {"date": str(today), "entries": 4, "added": 4}
    assert await run(client) == {"date": str(today), "entries": 4, "added": 0}
    found = {
        e["task_id"]: (e["title"], e["status"], e["assigned_to"])
        for e in await entries(client, date=today)
    }
    assert found == {
        ids[0]: ("manual", "pending", "ada"),
        ids[1]: ("started", "in_progress", None),
        ids[2]: ("queued", "pending", None),
        ids[3]: ("later", "scheduled", None),
    }
    await create(client)
    assert (await run(client))["added"] == 1, (
        "a task that was created after the first load is active on this day"
    )


async def test_load_of_an_empty_database_records_the_day_without_entries(
    client: httpx.AsyncClient, connection: asyncpg.Connection
) -> None:
    assert (await run(client))["entries"] == 0
    assert await connection.fetchval("SELECT entries FROM daily_loads") == 0
    assert await entries(client) == []


async def test_entries_are_listed_in_pages_for_one_day_and_for_all_days(
    client: httpx.AsyncClient, connection: asyncpg.Connection
) -> None:
    for _ in range(3):
        await create(client)
    await connection.execute("UPDATE tasks SET created_at = now() - interval '5 days'")
    today = datetime.now(UTC).date()
    await run(client, today - timedelta(days=1))
    await run(client)
    one_day = await every_page(client, date=str(today), limit=2)
    assert len(one_day) == 3 and [e["number"] for e in one_day] == sorted(
        e["number"] for e in one_day
    )
    everything = await every_page(client, limit=2)
    assert [e["date"] for e in everything] == [str(today)] * 3 + [
        str(today - timedelta(days=1))
    ] * 3
    assert (
        await entries(client, date="9999-12-31") == await entries(client, date="0001-01-01") == []
    )


async def every_page(client: httpx.AsyncClient, **query: Any) -> list[dict[str, Any]]:
    """Return the items of every page."""
    found: list[dict[str, Any]] = []
    cursor: str | None = None
    while True:
        page = (
            await client.get(PATH, params=query | ({"cursor": cursor} if cursor else {}))
        ).json()
        found += page["items"]
        cursor = page["next_cursor"]
        if cursor is None:
            return found


async def test_entry_is_found_by_id_and_by_number(client: httpx.AsyncClient) -> None:
    await create(client, title="one")
    await run(client)
    [entry] = await entries(client)
    for key in (entry["id"], entry["number"]):
        assert (await client.get(f"{PATH}/{key}")).json() == entry
    for key in (
        "0195d6a2-8c4f-7a3e-9a51-3f6f2d1c0b4a",
        "0",
        "9" * 19,
        "9" * 40,
        "-1",
        "x",
        "%00",
        "\u0663",
    ):
        check_problem(await client.get(f"{PATH}/{key}"), 404, "not_found")


async def test_only_a_hard_delete_removes_the_entries_of_a_task(
    client: httpx.AsyncClient,
) -> None:
    soft, hard = await create(client), await create(client)
    await run(client)
    assert (await client.delete(f"/api/v1/tasks/{soft}")).status_code == 204
    assert (await client.delete(f"/api/v1/tasks/{hard}", params={"hard": True})).status_code == 204
    assert [e["task_id"] for e in await entries(client)] == [soft]


async def test_past_day_has_the_tasks_that_were_active_at_its_end(
    client: httpx.AsyncClient, connection: asyncpg.Connection
) -> None:
    """The cases are days before today of creation, end and deletion; the loaded day is two days
    ago.
    """
    cases: dict[str, tuple[int, int | None, int | None]] = {
        "open since before": (5, None, None),
        "created later": (1, None, None),
        "ended before": (5, 3, None),
        "ended later": (5, 1, None),
        "deleted later": (5, None, 1),
        "deleted before": (5, None, 3),
    }
    for title, (created_days, ended, deleted) in cases.items():
        task = await create(client, title=title)
        if ended is not None:
            await client.patch(f"/api/v1/tasks/{task}", json={"status": "completed"})
        if deleted is not None:
            await client.delete(f"/api/v1/tasks/{task}")
        end = ended or deleted
        await connection.execute(
            "UPDATE tasks SET created_at = now() - make_interval(days => $2::int), "
            "status_at = now() - make_interval(days => coalesce($3::int, $2::int)), "
            "deleted_at = now() - make_interval(days => $4::int) WHERE id = $1::text::uuid",
            task, created_days, end, deleted,
        )  # fmt: skip
        await connection.execute(
            "UPDATE task_history SET at = now() - make_interval(days => CASE WHEN previous_status IS NULL THEN $2::int "
            "ELSE $3::int END) WHERE task_id = $1::text::uuid",
            task, created_days, end or created_days,
        )  # fmt: skip
    day = datetime.now(UTC).date() - timedelta(days=2)
    assert (await run(client, day))["added"] == 3
    found = {e["title"]: e["status"] for e in await entries(client, date=day)}
    assert found == dict.fromkeys(("open since before", "ended later", "deleted later"), "pending")


async def test_task_that_a_worker_finished_later_was_active(
    client: httpx.AsyncClient, connection: asyncpg.Connection
) -> None:
    task = await create(client, handler="noop")
    await connection.execute("UPDATE tasks SET created_at = now() - interval '5 days'")
    await connection.execute("UPDATE task_history SET at = now() - interval '5 days'")
    await connection.execute("DELETE FROM queue")
    await connection.execute(
        "INSERT INTO runs (task_id, fence, attempt, outcome, final, finished_at) "
        "VALUES ($1::text::uuid, 1, 1, 'completed', true, now() - interval '1 day')", task,
    )  # fmt: skip
    today = datetime.now(UTC).date()
    assert [(await run(client, today - timedelta(days=n)))["added"] for n in (3, 2, 0)] == [1, 1, 0]


async def test_missed_days_are_loaded_for_up_to_a_month(
    client: httpx.AsyncClient, connection: asyncpg.Connection, app: FastAPI
) -> None:
    await create(client)
    await connection.execute("UPDATE tasks SET created_at = '2020-01-01'")
    await connection.execute("UPDATE task_history SET at = '2020-01-01'")
    transactions, today = transactions_of(app), datetime.now(UTC).date()
    assert [load.date for load in await service.catch_up(transactions)] == [today], (
        "no day is missed before the first load"
    )
    await connection.execute("UPDATE daily_loads SET date = date - 3")
    await connection.execute("DELETE FROM daily_log")
    loads = await service.catch_up(transactions)
    assert [(today - load.date).days for load in loads] == [2, 1, 0]
    assert {load.added for load in loads} == {1}
    assert [load.added for load in await service.catch_up(transactions)] == [0]
    await connection.execute("UPDATE daily_loads SET date = date - 400")
    assert len(await service.catch_up(transactions)) == 32


async def test_day_follows_the_configured_time_zone(app: FastAPI, settings: Settings) -> None:
    far = {"Pacific/Kiritimati", "Pacific/Pago_Pago"}  # 25 hours apart: never the same date
    days = set()
    for zone in far:
        transactions = TransactionManager(
            settings.model_copy(update={"daily_log_time_zone": zone}),
            transactions_of(app).engine,
            transactions_of(app).wakeups,
        )
        days.add(day := (await service.run(transactions)).date)
        assert day == datetime.now(ZoneInfo(zone)).date()
    assert len(days) == 2


async def test_eight_concurrent_loaders_create_one_entry_per_task_and_day(
    connection: asyncpg.Connection, database: str
) -> None:
    await connection.execute(
        "INSERT INTO tasks (id, title, status, created_at) "
        "SELECT gen_random_uuid(), 'task', 'pending', now() - interval '9 days' FROM generate_series(1, 5000)"
    )
    yesterday = datetime.now(UTC).date() - timedelta(days=1)
    await connection.execute(
        "INSERT INTO daily_loads (date) VALUES ($1)", yesterday - timedelta(days=1)
    )
    loaders = [
        await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            LOADER,
            database,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        for _ in range(8)
    ]
    for loader in loaders:
        assert loader.stdout is not None and await loader.stdout.readline() == b"ready\n"
    outputs = await asyncio.gather(*(loader.communicate(b"go\n") for loader in loaders))
    assert [loader.returncode for loader in loaders] == [0] * 8
    added = [
        line.split()[1]
        for out, _ in outputs
        for line in out.splitlines()
        if line.startswith(b"added ")
    ]
    assert sum(map(int, added)) == 10_000
    days = await connection.fetch(
        "SELECT date, count(*), count(DISTINCT task_id) FROM daily_log GROUP BY 1 ORDER BY 1"
    )
    assert [tuple(d) for d in days] == [
        (yesterday, 5000, 5000),
        (yesterday + timedelta(days=1), 5000, 5000),
    ]


async def test_task_that_is_deleted_during_a_load_gets_no_entry(
    connection: asyncpg.Connection, app: FastAPI
) -> None:
    await connection.execute(
        "INSERT INTO tasks (id, title, status) SELECT gen_random_uuid(), 'x', 'pending' FROM generate_series(1, 3)"
    )
    async with connection.transaction():
        await connection.execute("DELETE FROM tasks WHERE number = 2")
        loading = asyncio.create_task(service.run(transactions_of(app)))
        waits = "SELECT count(*) FROM pg_locks WHERE NOT granted"
        while not await connection.fetchval(waits):
            assert not loading.done()
            await asyncio.sleep(0.01)
    assert (await loading).entries == 2


async def test_invalid_dates_are_rejected(client: httpx.AsyncClient) -> None:
    bad = (
        "2026-02-30",
        "2026-13-01",
        "0000-01-01",
        "10000-01-01",
        "2026-1-1",
        "20260101",
        "1700000000",
        "today",
        "",
    )
    more = (
        "2026-01-01T00:00:00",
        "\u0662\u0660\u0662\u0666-01-01",
        "2026-01-01\x00",
        "9" * 5000,
        "-1",
    )
    for text in (*bad, *more):
        check_field_error(await client.get(PATH, params={"date": text}), "date")
        check_field_error(await client.post(f"{PATH}:run", json={"date": text}), "date")
    wrong_types: list[Any] = [5, 1.5, True, [], {}]
    for value in wrong_types:
        check_field_error(await client.post(f"{PATH}:run", json={"date": value}), "date")
    tomorrow = datetime.now(UTC).date() + timedelta(days=2)
    assert "future" in check_field_error(
        await client.post(f"{PATH}:run", json={"date": str(tomorrow)}), "date"
    )
    assert "future" in check_field_error(
        await client.post(f"{PATH}:run", json={"date": "9999-12-31"}), "date"
    )
    assert (await run(client, "0001-01-01"))["entries"] == 0
    for cursor in ("x", "WyJhIiwgMV0", "WzFd"):
        check_field_error(await client.get(PATH, params={"cursor": cursor}), "cursor")


class TestLongLoads:
    """Loads that take longer than a transaction may be idle."""

    @pytest.fixture
    def settings(self, database: str) -> Settings:
        """Settings that end an idle transaction after a second."""
        return settings_for(database, lease_seconds=1.5)

    async def test_long_load_with_an_idempotency_key_completes(
        self,
        client: httpx.AsyncClient,
        connection: asyncpg.Connection,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(store, "CHUNK", 1)
        for _ in range(6):
            await create(client)
        await connection.execute("""
            CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN PERFORM pg_sleep(0.3); RETURN NULL; END $$;
            CREATE TRIGGER slow AFTER INSERT ON daily_log EXECUTE FUNCTION slow()
        """)
        first, again = [
            await client.post(f"{PATH}:run", headers={"Idempotency-Key": "one"}) for _ in range(2)
        ]
        assert (first.status_code, first.json()["added"]) == (200, 6)
        assert again.json() == first.json()
