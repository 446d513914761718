"""The audit log: changes by users and workers, its access rules, pages and query plans."""

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest
from sqlalchemy.dialects import postgresql

from task_service.domain.ids import new_id
from task_service.domain.outcomes import Outcome
from task_service.queue.results import Finished, finish
from task_service.store.audit import AuditFilter, statement
from tests.support.problems import check_field_error, check_problem
from tests.support.secured_app import SecuredApp
from tests.support.task_api import TASKS, ClaimTask

pytestmark = pytest.mark.asyncio
LOG = "/api/v1/audit-log"
DIALECT = postgresql.dialect()  # type: ignore[no-untyped-call]


COLUMNS = {
    "task_id",
    "previous_status",
    "new_status",
    "modified_by",
    "timestamp",
    "reason",
    "fields",
}


async def entries(client: httpx.AsyncClient, **params: Any) -> list[dict[str, Any]]:
    """Return all entries that match, newest first."""
    found: list[dict[str, Any]] = []
    cursor = None
    while True:
        page = (
            await client.get(LOG, params={**params, **({"cursor": cursor} if cursor else {})})
        ).json()
        found += page["items"]
        cursor = page["next_cursor"]
        if cursor is None:
            return found


def transition(entry: dict[str, Any]) -> tuple[str | None, str, str | None]:
    return entry["previous_status"], entry["new_status"], entry["modified_by"]


async def test_every_change_of_a_task_is_logged_with_its_author_and_time(
    secured: SecuredApp, connection: asyncpg.Connection, claim_task: ClaimTask
) -> None:
    root, ada, bob = [await secured.register(name, role) for name, role in
                      (("root", "admin"), ("ada", "editor"), ("bob", "operator"))]  # fmt: skip
    begun = datetime.now(UTC) - timedelta(seconds=1)
    async with secured.client(secured.token(ada)) as client:
        task = (await client.post(TASKS, json={"title": "Ring", "handler": "noop"})).json()
        url = f"{TASKS}/{task['id']}"
        await client.patch(url, json={"title": "Ring Bob", "tags": ["phone"]})
    claimed = await claim_task(task["id"])
    worker: UUID = await connection.fetchval("SELECT worker_id FROM queue")
    await finish(
        connection,
        worker,
        [Finished(claimed.task_id, claimed.fence, Outcome.FAILED, error="no tone")],
    )
    async with secured.client(secured.token(bob)) as client:
        await client.post(f"{url}:retry", json={"reason": "the line is repaired"})
        await client.delete(url)
    async with secured.client(secured.token(root)) as admin:
        found = await entries(admin)
        assert [transition(entry) for entry in found] == [
            ("pending", "deleted", "bob"),
            ("failed", "pending", "bob"),
            ("processing", "failed", str(worker)),  # kept after the retry
            ("pending", "pending", "ada"),
            (None, "pending", "ada"),
        ]
        for entry in found:
            assert set(entry) == COLUMNS
            assert entry["task_id"] == task["id"]
            assert (
                begun
                < datetime.fromisoformat(entry["timestamp"])
                < datetime.now(UTC) + timedelta(seconds=1)
            )
        assert [entry["timestamp"] for entry in found] == sorted(
            (e["timestamp"] for e in found), reverse=True
        )
        by_transition = {transition(entry)[1:]: entry for entry in found}
        assert by_transition["pending", "bob"]["reason"] == "the line is repaired"
        assert found[-2]["fields"] == ["tags", "title"]


async def test_entries_of_users_remain_after_a_hard_delete(secured: SecuredApp) -> None:
    root = await secured.register("root", "admin")
    async with secured.client(secured.token(root)) as admin:
        task = (await admin.post(TASKS, json={"title": "Ring"})).json()
        assert (
            await admin.delete(f"{TASKS}/{task['id']}", params={"hard": "true"})
        ).status_code == 204
        found = await entries(admin, task_id=task["id"])
    assert [transition(entry)[1:] for entry in found] == [("deleted", "root"), ("pending", "root")]


async def test_pages_and_filters_return_each_entry_once(
    secured: SecuredApp, connection: asyncpg.Connection, claim_task: ClaimTask
) -> None:
    root, ada = await secured.register("root", "admin"), await secured.register("ada")
    async with secured.client(secured.token(ada)) as client:
        tasks = [
            (await client.post(TASKS, json={"title": "t", "handler": "noop"})).json()["id"]
            for _ in range(4)
        ]
        for task_id in tasks:
            await client.patch(f"{TASKS}/{task_id}", json={"title": "u"})
    claims = [await claim_task(task_id) for task_id in tasks]
    for claimed in claims:
        worker = await connection.fetchval(
            "SELECT worker_id FROM queue WHERE task_id = $1", claimed.task_id
        )
        await finish(
            connection, worker, [Finished(claimed.task_id, claimed.fence, Outcome.COMPLETED)]
        )
    await connection.execute("UPDATE runs SET finished_at = now()")  # the same time for all runs
    await connection.execute(
        "UPDATE task_history SET at = now() WHERE task_id = $1", UUID(tasks[0])
    )
    async with secured.client(secured.token(root)) as admin:
        everything = await entries(admin, limit=100)
        assert len(everything) == 12
        for limit in (1, 3, 5):
            assert await entries(admin, limit=limit) == everything
        for task_id in tasks:
            assert await entries(admin, task_id=task_id) == [
                e for e in everything if e["task_id"] == task_id
            ]
        for name, count in (
            ("ada", 8),
            (str(worker), 4),
            ("Ada", 0),
            ("nobody", 0),
            (str(new_id()), 0),
        ):
            found = await entries(admin, modified_by=name, limit=2)
            assert len(found) == count
            assert {entry["modified_by"] for entry in found} <= {name}
        middle = everything[6]["timestamp"]
        after, before = await entries(admin, **{"from": middle}), await entries(admin, to=middle)
        assert after + before == everything
        assert all(entry["timestamp"] >= middle for entry in after)
        assert await entries(admin, **{"from": middle, "to": middle}) == []


async def test_only_administrators_read_the_log_and_the_error_names_the_role(
    secured: SecuredApp,
) -> None:
    for role in ("viewer", "editor", "operator"):
        user = await secured.register(f"the-{role}", role)
        async with secured.client(secured.token(user)) as client:
            problem = check_problem(await client.get(LOG), 403, "forbidden")
            assert (problem["role"], problem["needs"], problem["permission"]) == (
                role,
                "admin",
                "read_audit_log",
            )
            assert "admin" in problem["detail"]
    async with secured.client() as client:
        assert (await client.get(LOG)).status_code == 401


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"task_id": "7"}, "task_id"),
        ({"from": "yesterday"}, "from"),
        ({"to": "2026-02-30T00:00:00Z"}, "to"),
        ({"modified_by": ""}, "modified_by"),
        ({"limit": "0"}, "limit"),
        ({"limit": "201"}, "limit"),
        ({"cursor": "x"}, "cursor"),
        ({"user": "ada"}, "user"),
    ],
    ids=str,
)
async def test_invalid_filters_are_rejected_by_name(
    client: httpx.AsyncClient, params: dict[str, str], field: str
) -> None:
    check_field_error(await client.get(LOG, params=params), field)


def plan_nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    return [plan, *(node for child in plan.get("Plans", []) for node in plan_nodes(child))]


async def fill_history(connection: asyncpg.Connection) -> None:
    """Insert 100,000 changes by 1,000 users over 100,000 seconds; spread the runs over them."""
    if await connection.fetchval("SELECT count(*) FROM task_history") > 0:
        return
    await connection.execute(
        "INSERT INTO task_history (task_id, new_status, changed_by, at)"
        " SELECT gen_random_uuid(), 'pending', 'person ' || n % 1000, now() - make_interval(secs => n)"
        " FROM generate_series(1, 100000) AS n"
    )
    await connection.execute(
        "UPDATE runs SET finished_at = now() - random() * interval '100000 seconds', worker_id = gen_random_uuid()"
    )
    for table in ("task_history", "runs"):
        await connection.execute(f"VACUUM (FULL, ANALYZE) {table}")


@pytest.mark.parametrize(
    ("wanted", "indexes"),
    [
        (AuditFilter(), {"task_history_at", "runs_finished_at"}),
        (AuditFilter(modified_by="person 7"), {"task_history_changed_by"}),
        (AuditFilter(modified_by="nobody"), {"task_history_changed_by"}),
        (AuditFilter(task_id=new_id()), {"task_history_task", "runs_pkey"}),
        (
            AuditFilter(since=datetime.now(UTC) - timedelta(minutes=10), until=datetime.now(UTC)),
            {"task_history_at", "runs_finished_at"},
        ),
    ],
    ids=["everything", "a person", "nobody", "a task", "ten minutes"],
)
@pytest.mark.parametrize("later", [False, True], ids=["first page", "later page"])
async def test_each_filter_uses_its_index(
    large_database: asyncpg.Connection, wanted: AuditFilter, indexes: set[str], *, later: bool
) -> None:
    await fill_history(large_database)
    before = (datetime.now(UTC) - timedelta(minutes=5), new_id(), 7) if later else None
    compiled = statement(wanted, 51, before).compile(
        dialect=DIALECT, compile_kwargs={"literal_binds": True}
    )
    text = await large_database.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) {compiled}")
    found = plan_nodes(json.loads(text)[0]["Plan"])
    assert not [n["Relation Name"] for n in found if n["Node Type"] == "Seq Scan"], text
    assert {n["Index Name"] for n in found if "Index Name" in n} == indexes
    read = sum(
        n["Actual Rows"] * n["Actual Loops"] for n in found if re.search("Scan", n["Node Type"])
    )
    assert read < 2_000, text  # of 100,000: one page, or ten minutes
