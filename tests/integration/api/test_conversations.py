"""Conversations of a task."""

from typing import Any

import httpx
import pytest

from tests.support.problems import check_problem
from tests.support.task_api import TASKS, create_task

pytestmark = pytest.mark.asyncio


async def test_conversation_is_added_read_changed_and_deleted(
    client: httpx.AsyncClient,
) -> None:
    task = await create_task(client)
    made = await client.post(
        f"{TASKS}/{task['id']}/conversations", json={"body": {"text": "hello"}}
    )
    assert made.status_code == 201
    url = made.headers["location"]
    assert (await client.get(url)).json() == made.json()
    assert (made.json()["status"], made.json()["task_id"]) == ("pending", task["id"])
    changed = (await client.patch(url, json={"status": "processed"})).json()
    assert (changed["status"], changed["body"]) == ("processed", {"text": "hello"})
    assert changed["processed_at"] is not None
    replaced = (await client.put(url, json={"body": [1], "status": "pending"})).json()
    assert (replaced["status"], replaced["body"], replaced["processed_at"]) == (
        "pending",
        [1],
        None,
    )
    assert (await client.patch(url, json={})).json() == replaced
    assert (await client.delete(url)).status_code == 204
    assert (await client.get(url)).status_code == 404
    assert (await client.get(f"{TASKS}/{task['id']}")).json()["conversation_count"] == 0


async def test_conversations_are_listed_in_pages_in_creation_order(
    client: httpx.AsyncClient,
) -> None:
    task = await create_task(client, conversations=[{"body": n} for n in range(5)])
    url = f"{TASKS}/{task['id']}/conversations"
    await client.post(url, json={"body": 5})
    bodies, query = [], {"limit": "4"}
    while True:
        page = (await client.get(url, params=query)).json()
        bodies.append([c["body"] for c in page["items"]])
        if page["next_cursor"] is None:
            break
        query["cursor"] = page["next_cursor"]
    assert bodies == [[0, 1, 2, 3], [4, 5]]


async def test_invalid_conversations_are_rejected(client: httpx.AsyncClient) -> None:
    task = await create_task(client, conversations=[{"body": 1}])
    url = f"{TASKS}/{task['id']}/conversations"
    [conversation] = (await client.get(url)).json()["items"]
    invalid: list[Any] = [
        {},
        {"body": None},
        {"body": 1, "status": "processed"},
        {"body": "x" * 270_000},
        [],
    ]
    for body in invalid:
        check_problem(await client.post(url, json=body), 422, "invalid_field")
    for body in ({"body": None}, {"status": None}, {"status": "done"}, {"id": "x"}):
        check_problem(
            await client.patch(f"/api/v1/conversations/{conversation['id']}", json=body),
            422,
            "invalid_field",
        )
    problem = check_problem(await client.get(f"{url}?cursor=x"), 422, "invalid_field")
    assert problem["errors"][0]["field"] == "cursor"
