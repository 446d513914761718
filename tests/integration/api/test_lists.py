"""The list of tasks: filters, sorting and pages, and their query plans."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import httpx
import pytest
import pytest_asyncio

from task_service.domain.priorities import Priority
from task_service.domain.statuses import Status
from task_service.store.task_lists.filters import Sort, TaskFilter, is_served, order_of
from task_service.store.task_lists.listing import statement_of
from task_service.store.task_lists.plans import At, Step, steps_of
from task_service.store.task_lists.text_search import query_of
from tests.support.sample_tasks import insert_sample_tasks
from tests.support.task_api import TASKS, create_task, list_tasks

pytestmark = pytest.mark.asyncio


@pytest_asyncio.fixture
async def sample_tasks(
    client: httpx.AsyncClient, connection: asyncpg.Connection
) -> list[dict[str, Any]]:
    """Two hundred tasks in every state, as the list returns them."""
    await insert_sample_tasks(connection, 200)
    return await list_tasks(client, limit=200)


async def test_status_filter_finds_exactly_the_tasks_with_that_status(
    client: httpx.AsyncClient, sample_tasks: list[dict[str, Any]]
) -> None:
    assert {t["status"] for t in sample_tasks} == set(Status)
    for status in Status:
        found = await list_tasks(client, status=status.upper(), limit=7)
        assert [t["id"] for t in found] == [
            t["id"] for t in sample_tasks if t["status"] == status
        ], status
    several = await list_tasks(
        client, status=["failed", "pending", "scheduled", "cancelled"], limit=7
    )
    wanted = {"failed", "pending", "scheduled", "cancelled"}
    assert [t["id"] for t in several] == [t["id"] for t in sample_tasks if t["status"] in wanted]


@pytest.mark.parametrize("sort", ["created_at", "due_date", "priority", "updated_at"])
@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("status", [[], ["pending", "completed", "failed"]])
async def test_pages_in_any_order_contain_every_task_once(
    client: httpx.AsyncClient,
    sample_tasks: list[dict[str, Any]],
    sort: str,
    descending: bool,
    status: list[str],
) -> None:
    found = await list_tasks(client, sort=f"{'-' * descending}{sort}", limit=9, status=status)
    expected = [t for t in sample_tasks if not status or t["status"] in status]
    assert sorted(t["id"] for t in found) == sorted(t["id"] for t in expected)
    keys = [t[sort] for t in found if t[sort] is not None]
    rank = {"low": 0, "medium": 1, "high": 2, "urgent": 3}
    values = [rank[k] if sort == "priority" else datetime.fromisoformat(k) for k in keys]
    assert values == sorted(values, reverse=descending)
    assert [t[sort] for t in found[: len(keys)]] == keys, "tasks without a value come last"


async def test_filters_narrow_the_list_and_can_be_combined(
    client: httpx.AsyncClient,
) -> None:
    now = datetime.now(UTC)
    due = [(now + timedelta(days=d)).isoformat() for d in (1, 2, 3)]
    await create_task(
        client,
        title="Ring Ada_100%",
        assigned_to="ada",
        tags=["phone", "home"],
        priority="high",
        due_date=due[0],
    )
    await create_task(
        client,
        title="Write",
        description="to ADA",
        assigned_to="bob",
        tags=["home"],
        due_date=due[1],
    )
    await create_task(client, title="Sum", handler="noop", queue="mail")
    for query, titles in (
        ({"assigned_to": "ada"}, ["Ring Ada_100%"]),
        ({"tag": "home"}, ["Write", "Ring Ada_100%"]),
        ({"tag": ["home", "phone"]}, ["Ring Ada_100%"]),
        ({"priority": ["high", "URGENT"]}, ["Ring Ada_100%"]),
        ({"handler": "noop"}, ["Sum"]),
        ({"queue": "mail"}, ["Sum"]),
        ({"text": "ada"}, ["Write", "Ring Ada_100%"]),
        ({"text": "ada", "tag": "phone"}, ["Ring Ada_100%"]),
        ({"due_after": due[1]}, ["Write"]),
        ({"due_before": due[1]}, ["Ring Ada_100%"]),
        ({"due_after": due[2]}, []),
        (
            {"created_after": now.isoformat(), "created_before": due[0]},
            ["Sum", "Write", "Ring Ada_100%"],
        ),
        ({"created_before": now.isoformat()}, []),
        (
            {
                "tag": "home",
                "assigned_to": "bob",
                "status": "pending",
                "text": "wri*",
                "sort": "-due_date",
            },
            ["Write"],
        ),
    ):
        response = await client.get(TASKS, params=query)
        assert response.status_code == 200, response.text
        assert [t["title"] for t in response.json()["items"]] == titles, query


async def test_pages_skip_and_repeat_nothing_while_tasks_change(
    client: httpx.AsyncClient,
) -> None:
    ids = [(await create_task(client))["id"] for _ in range(6)]
    first = (await client.get(TASKS, params={"limit": 3, "sort": "created_at"})).json()
    await client.delete(f"{TASKS}/{ids[0]}")
    new = (await create_task(client))["id"]
    cursor = {"limit": 9, "sort": "created_at", "cursor": first["next_cursor"]}
    rest = (await client.get(TASKS, params=cursor)).json()
    assert [t["id"] for t in first["items"] + rest["items"]] == [*ids, new]


async def test_cursor_is_valid_only_for_its_list(client: httpx.AsyncClient) -> None:
    for _ in range(2):
        await create_task(client)
    cursor = (await client.get(TASKS, params={"limit": 1})).json()["next_cursor"]
    for query in (
        {"cursor": cursor, "sort": "priority"},
        {"cursor": cursor, "sort": "created_at"},
        {"cursor": cursor[:-3]},
        {"cursor": "x"},
        {"cursor": ""},
        {"cursor": "W10"},
    ):
        response = await client.get(TASKS, params=query)
        assert (response.status_code, response.json()["errors"][0]["field"]) == (422, "cursor"), (
            query
        )


def used_relations(plan: dict[str, Any]) -> set[str]:
    """Return the indexes of a plan, and `Seq Scan TABLE` for every table that it scans."""
    found = {plan["Index Name"]} if "Index Name" in plan else set()
    if plan["Node Type"] == "Seq Scan":
        found.add(f"Seq Scan {plan['Relation Name']}")
    return found.union(*(used_relations(p) for p in plan.get("Plans", [])))


SOON = datetime.now(UTC) + timedelta(hours=1)


INDEXES = (
    "tasks_created_at", "tasks_due_date", "tasks_priority", "tasks_updated_at", "tasks_status", "tasks_assigned_to",
    "tasks_handler", "tasks_queue", "tasks_words", "tasks_tags", "tasks_urgent", "tasks_high", "tasks_medium",
    "tasks_low",
)  # fmt: skip


async def plan_of(
    connection: asyncpg.Connection, where: TaskFilter, sort: Sort, step: Step | None
) -> set[str]:
    """Return the indexes and scans of the statement of this step."""
    sql, parameters = statement_of(where.shape(), sort, At(0, begins=False), step)
    values = {"text": query_of(where.text or ""), "most": 51}
    arguments = [values[p] if p in values else getattr(where, p) for p in parameters]
    return used_relations(
        json.loads(await connection.fetchval(f"EXPLAIN (FORMAT JSON) {sql}", *arguments))[0]["Plan"]
    )


@pytest.mark.parametrize(
    ("where", "sort", "index"),
    [
        (TaskFilter(), "-created_at", "tasks_created_at"),
        (TaskFilter(), "created_at", "tasks_created_at"),
        (TaskFilter(), "due_date", "tasks_due_date"),
        (TaskFilter(), "-priority", "tasks_priority"),
        (TaskFilter(), "-updated_at", "tasks_updated_at"),
        (TaskFilter(statuses=(Status.IN_PROGRESS,)), "-created_at", "tasks_status"),
        (TaskFilter(assigned_to="person 3"), "-created_at", "tasks_assigned_to"),
        (TaskFilter(handler="noop3"), "-created_at", "tasks_handler"),
        (TaskFilter(queue="mail"), "-created_at", "tasks_queue"),
        (TaskFilter(priorities=(Priority.URGENT,)), "-created_at", "tasks_urgent"),
        (TaskFilter(priorities=(Priority.LOW,), created_before=SOON), "created_at", "tasks_low"),
        (TaskFilter(created_after=SOON), "-created_at", "tasks_created_at"),
        (TaskFilter(due_before=SOON), "due_date", "tasks_due_date"),
        (TaskFilter(priorities=(Priority.URGENT,)), "-priority", "tasks_priority"),
    ],
)
async def test_filters_that_one_index_serves_use_only_that_index(
    large_database: asyncpg.Connection, where: TaskFilter, sort: Sort, index: str
) -> None:
    assert is_served(where, order_of(sort))
    used = await plan_of(large_database, where, sort, None)
    assert used & set(INDEXES) == {index}
    assert not {n for n in used if n.startswith("Seq Scan")}, used


@pytest.mark.parametrize(
    ("where", "indexes"),
    [
        (TaskFilter(statuses=(Status.FAILED,)), {"runs_final"}),
        (TaskFilter(statuses=(Status.PROCESSING,)), {"queue_running"}),
        (TaskFilter(tags=("tag 70",)), {"tasks_tags"}),
        (TaskFilter(tags=("tag 70",), statuses=(Status.FAILED,)), {"tasks_tags"}),
        (TaskFilter(tags=("tag 70",), statuses=(Status.PROCESSING,)), {"queue_running"}),
        (TaskFilter(assigned_to="person 3"), {"tasks_assigned_to"}),
        (TaskFilter(text="task"), {"tasks_words"}),
        (TaskFilter(text="9999"), {"tasks_words"}),
        (TaskFilter(text="task 99*"), {"tasks_words"}),
    ],
)
@pytest.mark.parametrize("sort", ["-created_at", "-priority", "due_date"])
async def test_gathering_step_uses_the_indexes_of_its_filter(
    large_database: asyncpg.Connection, where: TaskFilter, indexes: set[str], sort: Sort
) -> None:
    """Bounded steps use the indexes; the last step may read all tasks, since then all match."""
    for step in steps_of(where, order_of(sort)):
        used = await plan_of(large_database, where, sort, step)
        if step.walks:
            within = (
                "tasks_assigned_to"
                if where.assigned_to and sort == "-created_at"
                else f"tasks_{sort.lstrip('-')}"
            )
            assert within in used and "tasks_words" not in used, (step, used)
            assert not {n for n in used if n.startswith("Seq Scan")}, (step, used)
        elif step.bound is not None or where.text is None:
            assert indexes <= used, (step, used)


@pytest.mark.parametrize(
    ("where", "sort", "index"),
    [
        (TaskFilter(assigned_to="person 3", tags=("tag 70",)), "-created_at", "tasks_assigned_to"),
        (TaskFilter(handler="noop3", statuses=(Status.FAILED,)), "created_at", "tasks_handler"),
        (TaskFilter(queue="mail", statuses=(Status.PENDING,)), "-created_at", "tasks_queue"),
        (
            TaskFilter(priorities=(Priority.LOW,), statuses=(Status.FAILED,)),
            "-created_at",
            "tasks_low",
        ),
        (
            TaskFilter(statuses=(Status.IN_PROGRESS,), tags=("tag 70",)),
            "-created_at",
            "tasks_status",
        ),
        (
            TaskFilter(statuses=(Status.FAILED,), tags=("tag 70",)),
            "-created_at",
            "tasks_created_at",
        ),
        (TaskFilter(statuses=(Status.IN_PROGRESS,), due_after=SOON), "-created_at", "tasks_status"),
        (TaskFilter(created_before=SOON, tags=("tag 70",)), "-created_at", "tasks_created_at"),
        (TaskFilter(due_before=SOON, statuses=(Status.FAILED,)), "due_date", "tasks_due_date"),
    ],
)
async def test_walking_step_uses_the_index_that_covers_its_filter(
    large_database: asyncpg.Connection, where: TaskFilter, sort: Sort, index: str
) -> None:
    walks = [step for step in steps_of(where, order_of(sort)) if step.walks]
    assert walks
    for step in walks:
        used = await plan_of(large_database, where, sort, step)
        assert used & set(INDEXES) == {index}, (step, used)
        assert not {n for n in used if n.startswith("Seq Scan")}, (step, used)


async def test_text_search_of_running_tasks_reads_only_running_tasks(
    large_database: asyncpg.Connection,
) -> None:
    where = TaskFilter(text="task", statuses=(Status.PROCESSING,))
    [step] = steps_of(where, order_of("-created_at"))
    used = await plan_of(large_database, where, "-created_at", step)
    assert "queue_running" in used
    assert "tasks_words" not in used


@pytest.mark.parametrize("statistics", ["empty", "full"])
async def test_walking_step_uses_its_index_whatever_the_statistics(
    connection: asyncpg.Connection, statistics: str
) -> None:
    """Statistics of empty tables change nothing, because the shape of the statement decides."""
    for table in ("tasks", "queue", "runs"):
        await connection.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = false)")
        await connection.execute(f"VACUUM ANALYZE {table}")
    await insert_sample_tasks(connection, 10_000, analyze=statistics == "full")
    for where in (
        TaskFilter(text="task"),
        TaskFilter(text="4321"),
        TaskFilter(statuses=(Status.COMPLETED, Status.PENDING)),
        TaskFilter(tags=("all",), statuses=(Status.FAILED,)),
    ):
        for sort in ("-created_at", "-updated_at", "-priority"):
            steps = steps_of(where, order_of(sort))
            walk, gathering = steps[0], next(step for step in steps if not step.walks)
            used = await plan_of(connection, where, sort, walk)
            assert f"tasks_{sort.removeprefix('-')}" in used, (where, used)
            if where.text:
                assert "tasks_words" in await plan_of(connection, where, sort, gathering), where
