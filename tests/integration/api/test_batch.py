"""Creating many tasks in one request."""

import asyncio
import time
from typing import Any

import asyncpg
import httpx
import pytest

from task_service.api.routes.batch import BatchResult
from task_service.settings import Settings
from tests.support.problems import check_problem
from tests.support.service_settings import settings_for
from tests.support.task_api import BATCH, TASKS, post_batch

pytestmark = pytest.mark.asyncio


async def counts(connection: asyncpg.Connection) -> list[int]:
    return [
        await connection.fetchval(f"SELECT count(*) FROM {table}")
        for table in ("tasks", "task_history", "queue", "conversations")
    ]


async def test_batch_creates_tasks_with_history_conversations_and_queue_rows(
    client: httpx.AsyncClient, connection: asyncpg.Connection
) -> None:
    response = await post_batch(
        client,
        [
            {"title": " one ", "tags": ["a", "A"], "payload": {"big": 2**70}},
            {
                "title": "two",
                "handler": "noop",
                "priority": "urgent",
                "conversations": [{"body": 1}, {"body": [2]}],
            },
            {"title": "three", "status": "completed", "handler": "noop"},
            {"title": "four", "handler": "noop", "run_at": "2999-01-01T00:00:00Z"},
        ],
    )
    assert response.status_code == 201, response.text
    made = BatchResult.model_validate_json(response.content)
    assert made.created == 4
    assert [(t.title, str(t.status), t.conversation_count) for t in made.items] == [
        ("one", "pending", 0),
        ("two", "pending", 2),
        ("three", "completed", 0),
        ("four", "scheduled", 0),
    ]
    assert await counts(connection) == [4, 4, 2, 2]
    assert made.items[2].processed_at is not None
    read = (await client.get(f"{TASKS}/{made.items[0].id}")).json()
    assert (read["payload"], read["tags"], read["created_by"]) == (
        {"big": 2**70},
        ["a"],
        "anonymous",
    )
    history = (await client.get(f"{TASKS}/{made.items[3].id}/history")).json()["items"]
    assert [(e["previous_status"], e["new_status"], e["by"]) for e in history] == [
        (None, "scheduled", "anonymous")
    ]
    shown = (await client.get(f"{TASKS}/{made.items[1].id}/conversations")).json()["items"]
    assert [c["body"] for c in shown] == [1, [2]]


async def test_one_invalid_task_rejects_the_batch_and_errors_name_its_index(
    client: httpx.AsyncClient, connection: asyncpg.Connection
) -> None:
    tasks: list[Any] = [{"title": f"task {n}"} for n in range(20)]
    tasks[17] = {"title": "", "colour": "red"}
    tasks[18] = "not an object"
    problem = check_problem(await post_batch(client, tasks), 422, "invalid_field")
    fields = {error["field"] for error in problem["errors"]}
    assert fields == {"tasks.17.title", "tasks.17.colour", "tasks.18"}
    assert await counts(connection) == [0, 0, 0, 0]


async def test_past_due_date_names_the_index_of_its_task(client: httpx.AsyncClient) -> None:
    tasks = [{"title": "x"}, {"title": "y", "due_date": "2020-01-01T00:00:00Z"}]
    problem = check_problem(await post_batch(client, tasks), 422, "invalid_field")
    assert problem["errors"] == [{"field": "tasks.1.due_date", "message": "must be in the future"}]


@pytest.mark.parametrize("tasks", [[], [{"title": "x"}] * 10_001, {"title": "x"}, None, "x"])
async def test_batch_must_have_1_to_10_000_tasks(client: httpx.AsyncClient, tasks: Any) -> None:
    problem = check_problem(await post_batch(client, tasks), 422, "invalid_field")
    assert problem["errors"] == [
        {"field": "tasks", "message": "must be a list of 1 to 10,000 tasks"}
    ]


@pytest.mark.parametrize(
    ("body", "media", "status", "code"),
    [
        (b'{"tasks": [', "application/json", 400, "broken_json"),
        (b"\xff\xfe", "application/json", 400, "broken_json"),
        (b'{"tasks": ' + b"[" * 100_000, "application/json", 422, "invalid_field"),
        (b'{"tasks": [{"title": ' + b"9" * 5000 + b"}]}", "application/json", 422, "invalid_field"),
        (b"title\r\nx\r\n", "text/csv", 415, "unsupported_media_type"),
        (b"[]", "application/json", 422, "invalid_field"),
        (b"", "application/json", 400, "broken_json"),
        (b'{"tasks": [{"title": "x"}], "task": 1}', "application/json", 422, "invalid_field"),
    ],
)
async def test_body_that_is_not_a_batch_is_rejected(
    client: httpx.AsyncClient, body: bytes, media: str, status: int, code: str
) -> None:
    check_problem(
        await client.post(BATCH, content=body, headers={"Content-Type": media}), status, code
    )


async def test_at_most_a_thousand_errors_are_returned(client: httpx.AsyncClient) -> None:
    problem = check_problem(await post_batch(client, [{"title": ""}] * 5000), 422, "invalid_field")
    assert len(problem["errors"]) == 1000


async def test_ten_thousand_tasks_do_not_block_the_event_loop(
    client: httpx.AsyncClient, connection: asyncpg.Connection
) -> None:
    tasks = [
        {
            "title": f"task {n}",
            "description": "x" * 200,
            "tags": ["home", f"tag {n % 7}"],
            "handler": "noop",
        }
        for n in range(10_000)
    ]
    longest, stop = 0.0, asyncio.Event()

    async def measure() -> None:
        nonlocal longest
        while not stop.is_set():
            begun = time.thread_time()
            await asyncio.sleep(0)
            longest = max(longest, time.thread_time() - begun)

    content = httpx.Request("POST", BATCH, json={"tasks": tasks}).content
    watch = asyncio.create_task(measure())
    response = await client.post(
        BATCH, content=content, headers={"Content-Type": "application/json"}
    )
    stop.set()
    await watch
    assert response.status_code == 201
    made = response.json()
    assert [t["title"] for t in made["items"]] == [t["title"] for t in tasks]
    assert await counts(connection) == [10_000, 10_000, 10_000, 0]
    # CPU time between two turns of the event loop, so that other load on the machine does not
    # count.
    assert longest < 0.5  # measured: 190 ms, including one-time work of the first request


class TestLimits:
    """The size limit of a batch."""

    @pytest.fixture
    def settings(self, database: str) -> Settings:
        """Settings with small limits."""
        return settings_for(database, max_body_bytes=2000, max_batch_bytes=4000)

    async def test_batch_has_its_own_larger_size_limit(self, client: httpx.AsyncClient) -> None:
        assert (await post_batch(client, [{"title": "x" * 100}] * 25)).status_code == 201
        check_problem(await post_batch(client, [{"title": "x" * 100}] * 50), 413, "body_too_large")
        check_problem(
            await client.post(TASKS, json={"title": "x", "payload": "y" * 3000}),
            413,
            "body_too_large",
        )
