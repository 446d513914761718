"""Invalid dependencies."""

from typing import Any

import asyncpg
import httpx
import pytest

from task_service.domain.ids import new_id
from tests.support.dependencies import create_waiter
from tests.support.problems import check_problem
from tests.support.task_api import TASKS, create_task, post_batch

pytestmark = pytest.mark.asyncio


async def test_missing_or_deleted_dependency_is_rejected(
    client: httpx.AsyncClient, connection: asyncpg.Connection
) -> None:
    gone = (await create_task(client))["id"]
    await client.delete(f"{TASKS}/{gone}")
    there = await create_waiter(client)
    for missing in (str(new_id()), gone):
        form = {"title": "a", "handler": "noop", "needs": [there, missing]}
        error = {"field": "needs", "message": f"there is no task {missing}"}
        assert check_problem(await client.post(TASKS, json=form), 422, "invalid_field")[
            "errors"
        ] == [error]
        rows = [{"title": "b"}, form | {"needs": [there]}, form]
        problem = check_problem(await post_batch(client, rows), 422, "invalid_field")
        assert problem["errors"] == [error | {"field": "tasks.2.needs"}]
    assert await connection.fetchval("SELECT count(*) FROM tasks WHERE deleted_at IS NULL") == 1


@pytest.mark.parametrize(
    "fields",
    [
        {"handler": None},
        {"status": "completed"},
        {"needs": [str(new_id()) for _ in range(101)]},
        {"needs": ["x"]},
        {"needs": None},
    ],
)
async def test_invalid_dependencies_are_rejected(
    client: httpx.AsyncClient, fields: dict[str, Any]
) -> None:
    form = {"title": "a", "handler": "noop", "needs": [str(new_id())]} | fields
    problem = check_problem(await client.post(TASKS, json=form), 422, "invalid_field")
    assert {error["field"].split(".")[0] for error in problem["errors"]} == {"needs"}
